"""Random bits for stochastic rounding, at half the price."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def random_bits(key: Array, shape: tuple[int, ...], dtype: type) -> Array:
    """[...shape] uniform random bits of `dtype`, uint32 or uint64.

    Drawing them is most of the cost of stochastic rounding. So of 32 bits each word serves two
    elements, half the last axis apart: once as it is, and once hashed. The hash is one to one, so
    every element has 32 bits that are exactly uniform, and a rounding probability that is exact;
    two elements that share a word are independent as far as the hash mixes it.

    Source of the hash: Wellons, hash-prospector, "lowbias32".
    """
    if dtype is not np.uint32 or not shape or shape[-1] < 2:
        return jax.random.bits(key, shape, dtype)
    half = -(-shape[-1] // 2)
    words = jax.random.bits(key, (*shape[:-1], half), np.uint32)
    return jnp.concatenate([words, _hashed(words)], axis=-1)[..., : shape[-1]]


def _hashed(x: Array) -> Array:
    u = np.uint32
    x = x ^ u(0x9E3779B9)  # so that zero does not stay zero
    x = (x ^ (x >> u(16))) * u(0x7FEB352D)
    x = (x ^ (x >> u(15))) * u(0x846CA68B)
    return x ^ (x >> u(16))
