"""Few-bit products on XLA's CPU backend: the memory layout in which they are fast, and run at all.

Since jax 0.10 the backend has fast bf16×bf16→f32 and int8×int8→int32 products, but not in every
layout. Stored with what is summed in front of the rows, as in every weight gradient of a dense
layer, int8 is 3 times slower than float32; and some layouts have no bf16 product and fail when
they run. Which one a dot gets, XLA decides late, from transposes before and after it. So here all
three arrays are pinned to the one layout that is always there and always fast.
"""

from __future__ import annotations

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint

# Before, few-bit products are no faster than float32 ones.
HAS_FAST_PRODUCTS = jax.__version_info__ >= (0, 10)


def dot_on_cpu(lhs: Array, rhs: Array, dimension_numbers: Any, accum: Any) -> Array:
    """`lax.dot_general` of two bfloat16 or two int8 arrays, for the CPU backend of jax ≥ 0.10.

    Args:
        lhs: [...].
        rhs: [...] of the same dtype.
        dimension_numbers: As `lax.dot_general` has them.
        accum: Dtype of the result, in which sums are taken: float32 or int32.

    Returns:
        [*batch, *lhs_free, *rhs_free] of dtype `accum`.
    """
    (left_summed, right_summed), (left_batch, right_batch) = dimension_numbers
    left_free = _others(lhs, left_summed, left_batch)
    right_free = _others(rhs, right_summed, right_batch)
    rows = _as_matrices(lhs, left_batch, left_free, left_summed)
    n = len(left_batch)
    if tuple(right_summed) == _last(rhs, len(right_summed)):
        columns = _as_matrices(rhs, right_batch, right_free, right_summed)
        summed = n + 1
    else:
        columns = _as_matrices(rhs, right_batch, right_summed, right_free)
        summed = n
    is_one_row = rows.shape[n] == 1
    if is_one_row:
        # For a single row, each call would widen the whole other operand.
        rows = jnp.concatenate([rows, jnp.zeros_like(rows)], n)
    batch = tuple(range(n))
    axes = (((n + 1,), (summed,)), (batch, batch))
    out = lax.dot_general(_pinned(rows), _pinned(columns), axes, preferred_element_type=accum)
    out = _pinned(out)
    out = lax.slice_in_dim(out, 0, 1, axis=n) if is_one_row else out
    free = [
        *(lhs.shape[axis] for axis in left_free),
        *(rhs.shape[axis] for axis in right_free),
    ]
    return out.reshape(*out.shape[:n], *free)


def in_rows(x: Array, summed: tuple[int, ...]) -> Array:
    """`x` as it is, on CPU stored row by row if a row is what several axes at its end are summed.

    Attention hands over [..., heads, width] with the last but two axes last. To be quantized, it
    is read twice, and then multiplied by rows: one transposed copy is less work than three reads.
    """
    if not HAS_FAST_PRODUCTS or len(summed) < 2 or sorted(summed) != [*_last(x, len(summed))]:
        return x
    return lax.platform_dependent(x, cpu=_pinned, default=lambda x: x)


def _others(x: Array, summed: Any, batch: Any) -> tuple[int, ...]:
    return tuple(axis for axis in range(x.ndim) if axis not in (*summed, *batch))


def _last(x: Array, count: int) -> tuple[int, ...]:
    return tuple(range(x.ndim - count, x.ndim))


def _as_matrices(x: Array, batch: Any, first: Any, second: Any) -> Array:
    """[*batch, first, second], each of the two groups of axes as one axis."""
    sizes = [prod(x.shape[axis] for axis in group) for group in (first, second)]
    moved = jnp.transpose(x, (*batch, *first, *second))
    return moved.reshape(*moved.shape[: len(batch)], *sizes)


def _pinned(x: Array) -> Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
