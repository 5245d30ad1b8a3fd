"""Random keys for what a program rounds by chance: folded from one key by names that stay.

A matrix op's key follows from its path, from how many ops before it have that path, and from the
trips of the loops around it. So no two ops draw the same bits; and an op that is computed again,
by `jax.checkpoint` or a derivative rule, draws what it drew.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.policy import PolicyRules
from precis.walk.program import Action, CustomJvp, Multiply, Site, bodies


def checked_key(key: Array | None, policies: PolicyRules) -> Array | None:
    """[] typed key for `policies`; None if they round nothing by chance, with or without a key.

    Raises:
        ValueError: They do and there is no key, or it is several.
        TypeError: It is no random key.
    """
    if not policies.is_stochastic:
        return None
    if key is None:
        raise ValueError(
            f"{policies} rounds by chance, and wants a random key: pass key=jax.random.key(0), "
            "and another in each step"
        )
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        typed = key
    elif dtype == np.uint32 and key.ndim:
        typed = jax.random.wrap_key_data(key)
    else:
        raise TypeError(f"a random key is wanted, as from jax.random.key(0), got {key!r}")
    if typed.ndim:
        raise ValueError(f"one random key is wanted, got an array of them of shape {typed.shape}")
    return typed


def takes_key(action: Action) -> bool:
    """Whether something in a step, or in the bodies inside it, may be rounded by chance."""
    match action:
        case Multiply(roles):
            return roles.is_stochastic
        case CustomJvp():  # its derivatives are not planned yet
            return True
        case _:
            return any(takes_key(step.action) for body in bodies(action) for step in body.steps)


def of_site(key: Array, site: Site) -> Array:
    """The key of a matrix op."""
    return _named(key, f"{site.path}#{site.number}")


def of_backward(key: Array | None, number: int) -> Array | None:
    """The key of the backward pass of the `number`th function with a derivative rule of its own."""
    return None if key is None else _named(key, f"backward#{number}")


def of_trip(key: Array | None, trip: Array | None) -> Array | None:
    """The key of one iteration of a loop."""
    return None if key is None or trip is None else jax.random.fold_in(key, trip)


def of_device(key: Array, axes: Any) -> Array:
    """The key of one device of a mesh, among those along `axes`."""
    for axis in sorted(axes):
        key = jax.random.fold_in(key, lax.axis_index(axis))
    return key


def _named(key: Array, name: str) -> Array:
    return jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode())))
