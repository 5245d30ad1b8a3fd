"""Random keys within one matrix op: each of its stochastic roundings has one of its own.

The two operands of a product must be rounded independently, or the mean of the product is not
the product of the means. So every rounding has a number, which its key is folded from. What is
rounded once more to the same values, as a parameter in the backward pass, has the same number.
"""

from __future__ import annotations

import jax
from jax import Array, lax

from precis.formats import Format, is_stochastic

# Roundings of one op. Those of the forward product are numbered by the operand's side.
GRAD = 2  # the cotangent, where it is rounded once for both backward products
_FACTOR, _GRAD = 3, 5  # within the backward product that belongs to operand 0 or 1


def factor_of(side: int) -> int:
    """The number of an operand, brought anew to the product that is operand `side`'s cotangent."""
    return _FACTOR + side


def grad_of(side: int) -> int:
    """The number of the output's cotangent, brought anew to the same product."""
    return _GRAD + side


def key_of(noise: Array | None, fmt: Format, x: Array, number: int) -> Array | None:
    """The key of one rounding of `x`; None if `fmt` rounds to nearest.

    Inside `jax.shard_map`, devices draw different bits along the axes along which `x` varies,
    and the same bits where all of them hold the same `x`.

    Args:
        noise: [] key of the matrix op.
        fmt: What `x` is rounded to.
        x: [...] in any dtype.
        number: Which of the op's roundings it is.

    Raises:
        ValueError: `fmt` is stochastic and there is no key.
    """
    if not is_stochastic(fmt):
        return None
    if noise is None:
        raise ValueError(f"{fmt} is stochastic and the matrix op wants a key")
    key = jax.random.fold_in(noise, number)
    for axis in _varying(x):
        key = jax.random.fold_in(key, lax.axis_index(axis))
    return key


def _varying(x: Array) -> list[str]:
    """Axes of a mesh along which `x` is known to vary, in an order of their own."""
    aval = jax.typeof(x)
    axes = getattr(aval, "vma", None)  # up to jax 0.9
    if axes is None:
        axes = getattr(getattr(aval, "manual_axis_type", None), "varying", None)
    return sorted(axes or ())
