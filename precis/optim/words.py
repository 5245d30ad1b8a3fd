"""A leaf while it is updated in place: narrow floats as words, so that a slice stays a slice.

XLA on CPU has no arithmetic in 16 bits, and widens all of an array to float32 before it takes a
slice of it or puts one in: a copy of the leaf for each chunk. Integers it leaves alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.types import PyTree

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16}


@functools.partial(jax.tree_util.register_dataclass, data_fields=["words"], meta_fields=["dtype"])
@dataclass(frozen=True, slots=True)
class Words:
    """A flat array of floats; a pytree node.

    Attributes:
        words: [n] unsigned integers of the floats' size, or the floats if those have 32 bits; or
            the same as [n / width, width]. XLA sees only of a slice in the shape of its array
            that it is put back where it was read, and otherwise copies it before.
        dtype: The floats'.
    """

    words: Array
    dtype: np.dtype

    @property
    def floats(self) -> Array:
        """[n] dtype: all of them."""
        return _floats(self.words, self.dtype).reshape(-1)

    def rows(self, start: int | Array, size: int, width: int) -> Array:
        """[⌈size / width⌉, width] dtype: floats from `start` on; what is missing is 0."""
        part = lax.dynamic_slice_in_dim(self.words, start // self._width, size // self._width)
        part = jnp.pad(part.reshape(-1), (0, -size % width)).reshape(-1, width)
        return _floats(part, self.dtype)

    def put(self, new: Array, start: int | Array) -> Words:
        """With floats `new` [size] of its dtype from `start` on; in place where it can be."""
        part = _words(new).reshape(-1, *self.words.shape[1:])
        words = lax.dynamic_update_slice_in_dim(self.words, part, start // self._width, 0)
        return Words(words, self.dtype)

    @property
    def _width(self) -> int:
        return math.prod(self.words.shape[1:])


def words_of(x: Array, width: int) -> Words:
    """`x` [...] floating, in rows of `width` if they come out even, of which parts begin a row."""
    shape = (-1, width) if x.size % width == 0 else (-1,)
    return Words(_words(x.reshape(shape)), np.dtype(x.dtype))


def map_words(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`tree` with `fn` applied to its `Words`, as wholes, and to what else is a leaf."""
    return jax.tree.map(fn, tree, *rest, is_leaf=lambda x: isinstance(x, Words))


def settled(tree: PyTree, start: int | Array, data: Array) -> PyTree:
    """`tree`, if it has several arrays, computed before any of them is put where it came from.

    Otherwise XLA computes each again where it is put, from what the others were, and copies all of
    these to keep them; and its CPU backend uses one core for what it computes where it puts it. A
    loop that is never entered stops that, if the compiler cannot know it.

    Args:
        tree: Arrays and scalars.
        start: At least 0.
        data: An array of at least one entry, which nobody knows.
    """
    arrays = [x for x in jax.tree.leaves(tree) if x.ndim]
    if len(arrays) < 2:
        return tree
    first = lax.bitcast_convert_type(data.reshape(-1)[0].astype(np.float32), jnp.uint32)
    never = jnp.minimum((first >> 1).astype(jnp.int32), start)
    done = lax.while_loop(
        lambda carry: carry[0] < 0,
        lambda carry: (carry[0] + 1, [-x for x in carry[1]]),
        (never, arrays),
    )[1]
    left = iter(done)
    return jax.tree.map(lambda x: next(left) if x.ndim else x, tree)


def _words(x: Array) -> Array:
    unsigned = _UNSIGNED.get(x.dtype.itemsize)
    return x if unsigned is None else lax.bitcast_convert_type(x, unsigned)


def _floats(x: Array, dtype: np.dtype) -> Array:
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)
