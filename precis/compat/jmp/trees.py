"""What jmp does to whole trees: asks if they are finite, chooses between two, scales one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from precis.tree import map_floats
from precis.types import PyTree


def all_finite(tree: PyTree) -> Array:
    """[] bool: whether every number in `tree` is finite; True if there is none."""
    leaves = (jnp.asarray(x) for x in jax.tree.leaves(tree))
    finite = [jnp.isfinite(x).all() for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack(finite).all() if finite else jnp.asarray(True)


def select_tree(pred: ArrayLike, a: PyTree, b: PyTree) -> PyTree:
    """`a` where `pred`, else `b`, bit for bit; never a mixture of their dtypes.

    Args:
        pred: [] bool.
        a: A tree of arrays.
        b: A tree of the same shapes and dtypes.

    Raises:
        ValueError: `pred` is no boolean scalar.
        TypeError: Leaves differ in dtype or shape.
    """
    which = boolean(pred)
    return jax.tree.map(lambda x, y: lax.select(which, x, y), a, b)


def boolean(pred: ArrayLike) -> Array:
    """`pred` as an array, if it is one boolean.

    Raises:
        ValueError: It is not.
    """
    made = jnp.asarray(pred)
    if made.shape != () or made.dtype != jnp.bool_:
        raise ValueError(
            f"expected boolean scalar, got {made.dtype.name}{list(made.shape)}: reduce it, as "
            "all_finite does"
        )
    return made


def times(tree: PyTree, factor: ArrayLike, *, inverted: bool = False) -> PyTree:
    """The floats of `tree` times `factor` or 1 / `factor`; a float16 becomes float32."""

    def multiplied(x: Any) -> Array:
        x = jnp.asarray(x)
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        by = jnp.asarray(factor, dtype)
        return x.astype(dtype) * (1 / by if inverted else by)

    return map_floats(multiplied, tree)
