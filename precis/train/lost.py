"""What a format was too narrow for: gradients that became 0, updates that moved nothing."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from precis.types import PyTree


class Lost(NamedTuple):
    """Updates that a parameter's format was too narrow for.

    Attributes:
        lost: [] int32, nonzero updates that left their parameter as it was.
        meant: [] int32, nonzero updates.
    """

    lost: Array
    meant: Array

    @property
    def share(self) -> Array:
        """[] float32: lost of meant; 0 where nothing was meant."""
        return self.lost / jnp.maximum(self.meant, 1)


def lost_updates(updates: PyTree, old: PyTree, new: PyTree) -> Lost:
    """Counts the updates that were lost between parameters `old` and `new`."""
    lost = jax.tree.map(lambda u, a, b: jnp.sum((u != 0) & (a == b)), updates, old, new)
    meant = jax.tree.map(lambda u: jnp.sum(u != 0), updates)
    return Lost(_total(lost), _total(meant))


def share_of_zeros(grads: PyTree) -> Array:
    """[] float32: the share of gradient entries that are exactly 0."""
    zeros = _total(jax.tree.map(lambda g: jnp.sum(g == 0), grads))
    return zeros / sum(g.size for g in jax.tree.leaves(grads))


def _total(counts: PyTree) -> Array:
    return sum(jax.tree.leaves(counts), jnp.int32(0))
