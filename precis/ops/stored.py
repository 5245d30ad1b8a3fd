"""Matrix ops on a weight that is stored in few bits, as codes and scales.

Where every product that is summed has the same scale, the codes are multiplied as they are, and
the scales applied to the sums, once, in float32:

| weight | other operand | product |
|---|---|---|
| int8, int4, … | int8 | int8×int8→int32 |
| int8, int4, … | bf16, f16, f32 | codes in its dtype, which holds them |
| fp8, fp4, … | any | codes in the narrowest dtype that holds them; with fp8, float8 on CUDA |

CPUs have no product of mixed dtypes, and XLA would widen the whole weight first. There, up to 128
rows of a 16-bit operand are written in two int8 digits and multiplied as integers; more of them,
or of f32, meet the codes widened a part at a time.

A weight in blocks, of a codebook or with a zero point is dequantized for the product, and let go
after it. Either way the backward pass keeps the weight as it is stored. The other operand's
gradient goes straight through all rounding: (g · scales) @ codesᵀ. So does the weight's own, if it
has a tangent to be differentiated by: xᵀ @ g, as if the weight were a float. Without one there is
none, and nothing of x is kept.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core as jex_core

from precis.formats import Format, cast_to
from precis.ops.backward import backward_product, kept_of
from precis.ops.cotangents import Tagged, bring_coded_for, bring_for, cotangent_of
from precis.ops.cpu import HAS_FAST_PRODUCTS
from precis.ops.digits import in_digits
from precis.ops.epilogue import scaled_result
from precis.ops.inputs import against, coded_by, columns_apart
from precis.ops.noise import GRAD, key_of
from precis.ops.operand import Coded, is_scaled
from precis.ops.product import MatrixOp, product
from precis.ops.roles import Roles
from precis.ops.stored_operand import held_as, operand_of
from precis.ops.tiles import in_tiles, rows_of
from precis.quant import Stored, as_kernel, open_stored, recast

_F32 = np.dtype(np.float32)
# So many rows make up for widening the codes; fewer wait for nothing else.
_MANY_ROWS = 128


def stored_op(
    op: MatrixOp,
    x: Array,
    weight: Stored,
    side: int,
    *,
    roles: Roles,
    noise: Array | None = None,
    forward_mode: bool = False,
) -> Array:
    """`matrix_op` of a float array and a weight in few bits, which is operand `side`."""
    own, other = (roles.lhs, roles.rhs) if side == 0 else (roles.rhs, roles.lhs)
    kernel = as_kernel(weight)
    if kernel.outliers and not op.is_dot:
        raise ValueError(
            f"outlier columns go with a dot, not with {op.primitive.name} of a weight "
            f"{list(weight.shape)}: give it another mode by a rule, such as w8a8"
        )
    key = _Key(
        primitive=op.primitive,
        params=tuple(sorted(op.params.items())),
        side=side,
        formats=(own.format, other.format),
        roles=roles,
        like=jax.ShapeDtypeStruct(x.shape, x.dtype),
    )
    if forward_mode:
        return _linear_once(x, weight, op.group_sizes, noise, key)
    # Apart from the weight, whose other arrays have no cotangents.
    frozen = weight if kernel.tangent is None else replace(kernel, tangent=None)
    return _product_once(x, frozen, kernel.tangent, op.group_sizes, noise, key)


class _Key(NamedTuple):
    """What a product is but for its arrays: those of equal layers are traced once."""

    primitive: jex_core.Primitive
    params: tuple[tuple[str, Any], ...]
    side: int
    formats: tuple[Format, Format]
    roles: Roles
    like: jax.ShapeDtypeStruct

    def op(self, sizes: Array | None) -> MatrixOp:
        return MatrixOp(self.primitive, dict(self.params), sizes)

    def handed_over(self, out: Array) -> Array:
        return cast_to(cast_to(out, self.roles.accum), self.roles.out)

    def ordered(self, weight: Any, other: Any) -> tuple[Any, Any]:
        return (weight, other) if self.side == 0 else (other, weight)


class _Saved(NamedTuple):
    """What the backward pass needs: the weight as stored; of x, what its own gradient takes."""

    x: Array | Coded | None
    weight: Stored
    sizes: Array | None
    noise: Array | None


def _forward(
    x: Array,
    weight: Stored,
    tangent: Array | None,
    sizes: Array | None,
    noise: Array | None,
    key: _Key,
) -> tuple[Array, _Saved]:
    op, kernel, side = key.op(sizes), as_kernel(weight), 1 - key.side
    fmt = key.formats[1]
    wide = x
    if kernel.smoothing is not None:
        wide = x.astype(_F32) / against(op, kernel.smoothing, x.ndim, key.side)
    own = operand_of(op, kernel.weight, key.side, key.formats[0])
    apart = None
    if kernel.outliers:
        known = own if isinstance(own, Coded) else Coded(own, jnp.ones((), _F32))
        limits = {"count": kernel.outliers, "threshold": kernel.threshold}
        wide, apart = columns_apart(op, wide.astype(_F32), known, side, **limits)
    if kernel.input_amax is not None:
        brought = coded_by(op, wide.astype(_F32), kernel.input_amax, side)
    else:
        brought = bring_coded_for(op, wide, fmt, side, key_of(noise, fmt, x, side))
    formats = key.ordered(held_as(op, kernel.weight, key.side, key.formats[0]), fmt)
    out = _multiplied(op, brought, own, formats, key)
    if apart is not None:
        apart = _scaled(op, apart, own, key)
    out = out if apart is None else out + apart
    operand = key.roles.rhs if key.side == 0 else key.roles.lhs
    kept = None
    if tangent is not None:
        kept = kept_of(wide, brought, operand, key.roles.grad_for_weight)
    return key.handed_over(out), _Saved(kept, weight, sizes, noise)


def _multiplied(
    op: MatrixOp,
    x: Array | Coded,
    weight: Array | Coded,
    formats: tuple[Format, Format],
    key: _Key,
) -> Array:
    """float32: the product of both, scales applied."""
    if not isinstance(weight, Coded) or isinstance(x, Coded):
        return product(op, *key.ordered(weight, x), formats=formats)

    def in_floats(x: Array, codes: Array) -> Array:
        # Codes of 8 bits are exact in every float dtype of 16.
        if codes.dtype == np.int8:
            return product(op, *key.ordered(codes.astype(x.dtype), x))
        return product(op, *key.ordered(codes, x), formats=formats)

    def on_cpu(x: Array, codes: Array) -> Array:
        side, is_wide = 1 - key.side, x.dtype.itemsize > 2
        if not op.is_dot or codes.dtype != np.int8:
            return in_floats(x, codes)
        has_many = x.dtype == jnp.bfloat16 and rows_of(op, x, side) > _MANY_ROWS
        if is_wide or has_many or not HAS_FAST_PRODUCTS:
            return in_tiles(op, x, codes, side)
        return in_digits(op, x, codes, side)

    out = lax.platform_dependent(x, weight.codes, cpu=on_cpu, default=in_floats)
    return _scaled(op, out, weight, key)


def _scaled(op: MatrixOp, out: Array, weight: Array | Coded, key: _Key) -> Array:
    if not isinstance(weight, Coded):
        return out
    return scaled_result(op.primitive.name, op.params, out, weight.scales, key.side)


def _backward(key: _Key, saved: _Saved, cotangent: Array) -> tuple[Array | None, ...]:
    gradient = None
    if saved.x is not None:
        op, how = key.op(saved.sizes), {"shape": saved.weight.shape, "noise": saved.noise}
        gradient = backward_product(op, key.side, key.roles, saved.x, cotangent, **how)
        gradient = gradient.astype(_F32)
    return _input_gradient(key, saved, cotangent), None, gradient, None, None


def _input_gradient(key: _Key, saved: _Saved, cotangent: Array) -> Array:
    weight, sizes, noise = saved.weight, saved.sizes, saved.noise
    op, kernel, roles = key.op(sizes), as_kernel(weight), key.roles
    own = operand_of(op, kernel.weight, key.side, key.formats[0])
    g = _scaled(op, cotangent.astype(_F32), own, key)
    codes = own.codes if isinstance(own, Coded) else own
    fmt = roles.grad_for_input
    drawn = key_of(noise, fmt, g, GRAD)
    if is_scaled(fmt):
        tagged = Tagged(g, fmt, drawn)
    else:
        tagged = Tagged(bring_for(op, g, fmt, 0, drawn), None, held=fmt)
    like: Any = jax.ShapeDtypeStruct(key.like.shape, _F32)
    held = held_as(op, kernel.weight, key.side, key.formats[0])
    pair = key.ordered(Tagged(codes, None, held=held), Tagged(like, None))
    dx = cotangent_of(op, 1 - key.side, pair, tagged)
    if kernel.smoothing is not None:
        dx = dx / against(op, kernel.smoothing, dx.ndim, key.side)
    grad = (roles.rhs if key.side == 0 else roles.lhs).grad
    return cast_to(cast_to(dx, roles.accum), grad).astype(key.like.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _product(
    x: Array,
    weight: Stored,
    tangent: Array | None,
    sizes: Array | None,
    noise: Array | None,
    key: _Key,
) -> Array:
    return _forward(x, weight, tangent, sizes, noise, key)[0]


_product.defvjp(_forward, functools.partial(jax.jit, static_argnums=0, inline=True)(_backward))


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _linear(x: Array, weight: Stored, sizes: Array | None, noise: Array | None, key: _Key) -> Array:
    """Likewise, with a tangent for `jax.jvp`: straight through all rounding as well."""
    return _forward(x, weight, None, sizes, noise, key)[0]


@_linear.defjvp
def _tangent(key: _Key, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    _, weight, sizes, _ = primals
    wide = open_stored(recast(weight, _F32))
    moved = product(key.op(sizes), *key.ordered(wide, tangents[0].astype(_F32)))
    out = _linear(*primals, key)
    return out, moved.astype(out.dtype)


_product_once = jax.jit(_product, static_argnums=5, inline=True)
_linear_once = jax.jit(_linear, static_argnums=4, inline=True)
