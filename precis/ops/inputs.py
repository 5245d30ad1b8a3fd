"""What a `Kernel` knows of its inputs, put to use: smoothing, a calibrated scale, outliers."""

from __future__ import annotations

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats import amax, as_integers, parse, to_blocks
from precis.ops.cpu import in_rows
from precis.ops.operand import Coded, summed_axes
from precis.ops.product import MatrixOp, bind


def against(op: MatrixOp, x: Array, ndim: int, side: int) -> Array:
    """Numbers along what is summed, moved from the weight's axes to those of the other operand.

    Args:
        op: A dot.
        x: [...] with the weight's axes, 1 where it does not vary: along all that is not summed.
        ndim: How many axes the other operand has.
        side: Which operand the weight is: 0 for the first.
    """
    summed, batch = op.params["dimension_numbers"]
    shape = [1] * ndim
    pairs = [*zip(summed[side], summed[1 - side], strict=True)]
    pairs += zip(batch[side], batch[1 - side], strict=True)
    for own, other in pairs:
        shape[other] = x.shape[own]
    order = [own for own, _ in sorted(pairs, key=lambda pair: pair[1])]
    rest = [axis for axis in range(x.ndim) if axis not in order]
    return jnp.transpose(x, (*order, *rest)).reshape(shape)


def coded_by(op: MatrixOp, x: Array, largest: Array, side: int) -> Coded:
    """`x` as int8 codes of steps of `largest` / 127; what lies beyond saturates.

    A row with a NaN or an Inf has the scale NaN, so that its results are NaN.

    Args:
        op: The matrix op.
        x: [...] float32.
        largest: float32 of one value: a magnitude that is known beforehand.
        side: Which operand `x` is.
    """
    axes = summed_axes(op.primitive.name, op.params, x.ndim, side).all
    x = in_rows(x, axes) if op.is_dot else x
    own = amax(x, axes)
    wanted = jnp.where(jnp.isfinite(own), largest.reshape([1] * x.ndim), np.float32(np.nan))
    parts = to_blocks(x, parse("int8@channel"), axis=axes, largest=wanted)
    return Coded(as_integers(parts.elements, np.dtype(np.int8)), parts.scales)


def columns_apart(
    op: MatrixOp, x: Array, weight: Coded, side: int, *, count: int, threshold: float
) -> tuple[Array, Array]:
    """`x` without its outlying columns, and what the product of these is, in float32.

    The columns are the `count` ones with the largest magnitudes over all rows, where these are
    above `threshold`; a column with a NaN or an Inf is always among the largest. Each of the
    matrices along batch axes has its own.

    Args:
        op: A dot.
        x: [...] float32.
        weight: The other operand's codes, and scales for each of its outputs.
        side: Which operand `x` is.
        count: At most so many columns.
        threshold: From which magnitude on.

    Source: LLM.int8(), arXiv:2208.07339, section 3.2, with a count that is known beforehand.
    """
    summed, batch = op.params["dimension_numbers"]
    first = tuple(range(len(batch[0])))
    # Without batch axes, those behind them move up.
    numbers = tuple(
        tuple(axis - sum(other < axis for other in own) for axis in axes)
        for axes, own in zip(summed, batch, strict=True)
    )
    plain = op._replace(params=op.params | {"dimension_numbers": (numbers, ((), ()))})

    def one(x: Array, codes: Array) -> tuple[Array, Array]:
        return _apart(plain, x, codes, side, count, threshold)

    for _ in first:
        one = jax.vmap(one)
    rest, out = one(
        jnp.moveaxis(x, batch[side], first), jnp.moveaxis(weight.codes, batch[1 - side], first)
    )
    return jnp.moveaxis(rest, first, batch[side]), out


def _apart(
    op: MatrixOp, x: Array, codes: Array, side: int, count: int, threshold: float
) -> tuple[Array, Array]:
    """Likewise of a dot without batch axes."""
    summed, _ = op.params["dimension_numbers"]
    rows, columns = tuple(summed[side]), tuple(summed[1 - side])
    length = prod(x.shape[axis] for axis in rows)
    free = tuple(axis for axis in range(x.ndim) if axis not in rows)
    largest = amax(x, free)
    flat = jnp.transpose(largest, (*rows, *free)).reshape(length)
    values, places = lax.top_k(flat, min(count, length))
    is_out = values > np.float32(threshold)
    mask = jnp.zeros(length, bool).at[places].set(is_out)
    shape = [x.shape[axis] if axis in rows else 1 for axis in range(x.ndim)]
    spread = jnp.transpose(
        mask.reshape([x.shape[axis] for axis in rows] + [1] * len(free)),
        _inverse((*rows, *free)),
    ).reshape(shape)
    rest = jnp.where(spread, np.float32(0), x)
    picked = jnp.take(_flat(x, rows, free), places, axis=-1)
    picked = jnp.where(is_out, picked, np.float32(0))
    others = tuple(axis for axis in range(codes.ndim) if axis not in columns)
    own = jnp.take(_flat(codes, columns, others), places, axis=-1).astype(np.float32)
    pair = (picked, own) if side == 0 else (own, picked)
    numbers = (((pair[0].ndim - 1,), (pair[1].ndim - 1,)), ((), ()))
    plain = op._replace(params=op.params | {"dimension_numbers": numbers})
    return rest, bind(plain, *pair, np.float32)


def _flat(x: Array, summed: tuple[int, ...], free: tuple[int, ...]) -> Array:
    """[*free, all that is summed as one axis]."""
    moved = jnp.transpose(x, (*free, *summed))
    return moved.reshape(*moved.shape[: len(free)], -1)


def _inverse(order: tuple[int, ...]) -> Any:
    return tuple(np.argsort(order))
