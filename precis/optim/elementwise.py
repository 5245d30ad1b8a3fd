"""Whether an optimizer treats each entry by itself, so that it may be run on parts of a leaf."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from precis.types import PyTree
from precis.walk.equations import bodies_of

# No shape of an optimizer's own, so that an array of another size was made from entries together.
_SIZE = 1009
_ORDERED = ("cum", "sort", "rev", "gather", "scatter", "dynamic_", "dot_general", "conv_")


def mixing_operation(inner: optax.GradientTransformation) -> str | None:
    """The first operation by which `inner` mixes entries of a leaf; None if there is none.

    A sum over a leaf, such as a norm to clip by or a trust ratio, is one.

    Args:
        inner: An optax transformation that takes any pytree.
    """
    leaf = {"": jax.ShapeDtypeStruct((_SIZE,), jnp.float32)}
    wrapped = optax.with_extra_args_support(inner)

    def update(grads: PyTree, params: PyTree) -> PyTree:
        return wrapped.update(grads, wrapped.init(params), params)

    return next(_mixing(jax.make_jaxpr(update)(leaf, leaf).jaxpr), None)


def _mixing(jaxpr: Any) -> Iterator[str]:
    for eqn in jaxpr.eqns:
        bodies = bodies_of(eqn)
        for body in bodies:
            yield from _mixing(body)
        takes_entries = any(_size(x) == _SIZE for x in eqn.invars)
        keeps_them = all(_size(x) == _SIZE for x in eqn.outvars)
        name = eqn.primitive.name
        if not bodies and takes_entries and (not keeps_them or name.startswith(_ORDERED)):
            yield name


def _size(x: Any) -> int:
    return getattr(x.aval, "size", 0)
