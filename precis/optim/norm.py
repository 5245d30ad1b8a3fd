"""The global norm of gradients: one pass of squares says how large they are, and if all finite."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from precis.tree import is_float, map_floats
from precis.types import PyTree


class _Trust(NamedTuple):
    """Which sums of squares say all there is to say, and what brings others into that range.

    Attributes:
        smallest: A smaller sum may have lost squares to underflow: 2^26 entries of it still count.
        exponent: Entries that are smaller or larger are multiplied by 2^±exponent before they are
            squared, so that no square of a finite number overflows, nor one of a normal number
            underflows.
    """

    smallest: float
    exponent: int


# float32: entries below 2^-50 become at most 2^40, normal ones at least 2^-36; those of sums that
# overflow at most 2^38. float64 likewise, from 2^-450 and up to 2^1024.
_TRUST = {
    np.dtype(np.float32): _Trust(2.0**-100, 90),
    np.dtype(np.float64): _Trust(2.0**-900, 700),
}


class Norm(NamedTuple):
    """What one pass over gradients says about them.

    Attributes:
        value: [] float32 (float64 if some gradient is), the global 2-norm of the unscaled
            gradients; Inf where they are not finite, never where they are.
        finite: [] bool, whether every entry is finite.
    """

    value: Array
    finite: Array


def gradient_norm(grads: PyTree, *, scale: Array | None = None) -> Norm:
    """The global norm of `grads / scale` and whether all of it is finite; computed in float32.

    The sum of squares carries every NaN and Inf along, so one pass answers both questions. Where
    the sum is not finite, or so small that squares underflowed, a second pass under `lax.cond`
    decides exactly: a finite 1e20 overflows its square and is finite all the same.

    Integers among the leaves do not count.

    >>> gradient_norm([jnp.array([3e20, 4e20])])
    Norm(value=Array(5.e+20, dtype=float32), finite=Array(True, dtype=bool))

    Args:
        grads: A tree of floats, scaled by `scale`.
        scale: [] float32; None means 1.

    Raises:
        TypeError: A leaf is complex.
    """
    leaves = float_leaves(grads)
    if not leaves:
        return Norm(jnp.float32(0.0), jnp.bool_(True))
    dtype = jnp.result_type(jnp.float32, *leaves)
    smallest, exponent = _TRUST[np.dtype(dtype)]
    inverse = jnp.asarray(1, dtype) if scale is None else 1 / scale.astype(dtype)
    # The sum of the gradients as they are: unscaled on the way, it would take half as long again.
    squares = _sum_of_squares(leaves, dtype)
    value = jnp.sqrt(squares) * inverse

    def exact(leaves: list[Array]) -> Norm:
        power = jnp.where(squares < smallest, 2.0**exponent, 2.0**-exponent).astype(dtype)
        again = _sum_of_squares(leaves, dtype, power)
        largest = jnp.stack([jnp.max(jnp.abs(x), initial=0).astype(dtype) for x in leaves]).max()
        # The first decides over NaN, which CPUs drop from a maximum.
        finite = (again < jnp.inf) & jnp.isfinite(largest * inverse)
        norm = jnp.minimum(jnp.sqrt(again) / power * inverse, jnp.finfo(dtype).max)
        return Norm(jnp.where(finite, norm, jnp.inf), finite)

    # No entry of what is trusted overflows when it is unscaled.
    trusted = (squares >= smallest) & (squares < jnp.inf) & (value < 1 / smallest)
    # Not True, but what is: on replicas it differs, and so must both branches' types.
    return lax.cond(trusted, lambda _: Norm(value, trusted), exact, leaves)


def clip_by_norm(limit: float) -> optax.GradientTransformation:
    """An optax transformation: gradients of global norm at most `limit`, in float32 or wider.

    Gradients within the limit keep every bit, larger ones become `g / norm * limit`. float16
    gradients are widened first, where optax's own rounds the norm to float16 and zeroes them. Not
    for scaled gradients: `loss_scaled` has its own `clip`. NaN and Inf are not hidden: some entry
    comes out not finite.

    Raises:
        ValueError: `limit` is not positive.
    """
    check_limit(limit)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        del params
        return clipped(widened(updates), gradient_norm(updates), limit), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clipped(grads: PyTree, norm: Norm, limit: float) -> PyTree:
    """`grads` [...] float32 or wider, whose norm is `norm`, scaled to at most `limit`."""
    over = norm.value > limit
    # Two factors, each within range for every finite norm, where limit / norm may underflow.
    divisor, factor = jnp.where(over, norm.value, 1), jnp.where(over, limit, 1)
    return map_floats(lambda g: g / divisor.astype(g.dtype) * factor.astype(g.dtype), grads)


def check_limit(limit: float) -> None:
    """Checks a clipping limit.

    Raises:
        ValueError: It is not positive.
    """
    if not limit > 0:
        raise ValueError(f"clip is a largest global norm, more than 0, got {limit}; None for none")


def widened(tree: PyTree) -> PyTree:
    """`tree` with its float leaves in float32, or in float64 where they are."""
    return map_floats(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)


def unscale(grads: PyTree, scale: Array | None) -> PyTree:
    """`grads * (1 / scale)` in float32 or wider, exact for powers of two.

    Not `grads / scale`: XLA may turn that into this, and jit would differ from eager.
    """
    grads = widened(grads)
    if scale is None:
        return grads
    return map_floats(lambda g: g * (1 / scale.astype(g.dtype)), grads)


def _sum_of_squares(leaves: list[Array], dtype: jnp.dtype, power: Array | None = None) -> Array:
    """[] dtype: the sum of the squares of all entries times `power`."""
    wide = (leaf.astype(dtype) for leaf in leaves)
    sums = (jnp.sum(jnp.square(x if power is None else x * power)) for x in wide)
    return functools.reduce(jnp.add, sums)


def float_leaves(grads: PyTree) -> list[Array]:
    """The real float leaves of `grads` in order.

    Raises:
        TypeError: A leaf is complex.
    """
    leaves = jax.tree.leaves(grads)
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(
                f"gradients must be real, got {leaf.dtype}: take real and imaginary parts as two "
                "parameters"
            )
    return [leaf for leaf in leaves if is_float(leaf)]
