"""What a weight lost when it was quantized, read off its codes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.quant import Stored, as_kernel, open_stored, recast

_F32 = np.dtype(np.float32)
# Beyond the end of a group by less than this is rounding of the scale.
_SLACK = 2.0**-20


class WeightFacts(NamedTuple):
    """What a weight lost.

    Attributes:
        sqnr_db: Its SQNR; infinite where nothing was lost.
        clipped: Share of numbers beyond the largest that their group can hold.
        zeros: Share of numbers that are 0 when they are dequantized.
    """

    sqnr_db: float
    clipped: float
    zeros: float


def weight_facts(x: Array, stored: Stored) -> WeightFacts:
    """What `stored` lost of the array `x` that it stands for."""
    signal, noise, clipped, zeros = (float(value) for value in _measured(x, stored))
    return WeightFacts(sqnr_db(signal, noise), clipped, zeros)


def sqnr_db(signal: float, noise: float) -> float:
    """Signal over noise, both squared sums, in decibels.

    >>> sqnr_db(100.0, 1.0), sqnr_db(1.0, 0.0)
    (20.0, inf)
    """
    if math.isnan(signal) or math.isnan(noise):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


@jax.jit
def _measured(x: Array, stored: Stored) -> tuple[Array, Array, Array, Array]:
    kernel, wide = as_kernel(stored), x.astype(_F32)
    noise = open_stored(recast(stored, _F32)) - wide
    # Codes are of the weight times what its inputs are divided by.
    held = wide if kernel.smoothing is None else wide * kernel.smoothing
    low: Any = open_stored(recast(kernel.weight, _F32))
    grid, elements = kernel.weight.format.grid, kernel.weight.elements
    slack = jnp.abs(low) * np.float32(_SLACK)
    clipped = (elements == np.float32(grid.max)) & (held > low + slack)
    clipped |= (elements == np.float32(grid.min)) & (held < low - slack)
    return (
        jnp.sum(jnp.square(wide)),
        jnp.sum(jnp.square(noise)),
        jnp.mean(clipped.astype(_F32)),
        jnp.mean((low == 0).astype(_F32)),
    )
