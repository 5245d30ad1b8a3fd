"""One product of a backward pass: what is kept of its operand, and how it meets the cotangent."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from precis.formats import Format, Rounded, cast_to, is_stochastic
from precis.ops.cotangents import Tagged, bring_for, cotangent_of
from precis.ops.noise import GRAD, factor_of, grad_of, key_of
from precis.ops.operand import Coded, is_scaled
from precis.ops.product import MatrixOp
from precis.ops.roles import Operand, Roles

CODES = "precis.codes"
"""By this name `jax.checkpoint` knows the codes and scales that a backward pass keeps."""


def kept_of(x: Array, low: Array | Coded, operand: Operand, grad: Format) -> Array | Coded:
    """What the backward pass keeps of an operand.

    A parameter is kept as it is stored. An activation is kept as the product had it: in its low
    format, or as codes and scales, which are named `CODES`. Where the cotangent that it will meet
    is scaled, it is brought onto its grid once more, along other axes; from codes it would be
    rounded twice, so there it is kept as it came, and so it is in blocks, which have no codes.

    Args:
        x: The operand as it came.
        low: As it was multiplied.
        operand: How it took part.
        grad: Format of the cotangent that it will meet.
    """
    if operand.is_weight:
        return x
    if not is_scaled(operand.format):
        return low
    if is_scaled(grad) or not isinstance(low, Coded):
        return x
    return Coded(*(checkpoint_name(array, CODES) for array in low))


def backward_product(
    op: MatrixOp,
    side: int,
    roles: Roles,
    other: Array | Coded,
    cotangent: Array,
    *,
    shape: tuple[int, ...],
    noise: Array | None,
) -> Array:
    """The cotangent of operand `side`, rounded to its format, in float32 or wider.

    Args:
        op: The op.
        side: Whose cotangent is wanted.
        roles: The formats.
        other: The other operand, as `kept_of` has it.
        cotangent: That of the output.
        shape: Shape of operand `side`.
        noise: [] random key, which stochastic formats need.
    """
    fmt, number = roles.grads[side], grad_of(side)
    own, operand = (roles.lhs, roles.rhs) if side == 0 else (roles.rhs, roles.lhs)

    def brought(x: Array, fmt: Format, side: int, number: int) -> Tagged:
        low = bring_for(op, x, fmt, side, key_of(noise, fmt, x, number))
        return Tagged(low, None, held=fmt)

    def anew(x: Array, fmt: Format, number: int) -> Tagged:
        return Tagged(x, fmt, key_of(noise, fmt, x, number))

    if is_scaled(fmt):
        g = anew(cotangent, fmt, number)
    else:
        is_one = roles.grads[0] == roles.grads[1]
        g = brought(cotangent, fmt, 0, GRAD if is_one else number)
    if isinstance(other, Coded):
        factor = Tagged(other.codes.astype(np.float32) * other.scales, None)
    elif is_scaled(fmt) and is_scaled(operand.format):
        factor = anew(other, operand.format, factor_of(side))
    else:
        factor = brought(other, _as_kept(operand), 1 - side, 1 - side)
    like: Any = jax.ShapeDtypeStruct(shape, factor.array.dtype)
    factors = (Tagged(like, None), factor) if side == 0 else (factor, Tagged(like, None))
    return cast_to(cast_to(cotangent_of(op, side, factors, g), roles.accum), own.grad)


def _as_kept(operand: Operand) -> Format:
    """The operand's format; but what was kept on its grid stays as it is, and draws no bits."""
    fmt = operand.format
    is_low = not operand.is_weight and isinstance(fmt, Rounded) and not is_scaled(fmt)
    return fmt.grid if is_low and is_stochastic(fmt) else fmt
