"""The magnitudes by which groups are scaled where it is not the largest."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats import (
    ScaledFormat,
    amax,
    from_blocks,
    grouped,
    to_blocks,
    without_groups,
)
from precis.quant.calibration import Calibration, Mse, Percentile


def largest_of(
    x: Array, fmt: ScaledFormat, axes: tuple[int, ...], how: Calibration
) -> Array | None:
    """The magnitudes by which the groups of `x` are scaled; Inf for one that is not finite.

    Args:
        x: [...] float32.
        fmt: The format.
        axes: What groups run along, from the end.
        how: A symmetric calibration.

    Returns:
        float32 in the shape of the scales; None for the largest magnitudes.
    """
    match how:
        case Percentile(percent):
            return _percentile(x, fmt, axes, percent)
        case Mse(steps, smallest):
            return _least_squares(x, fmt, axes, np.linspace(1, smallest, steps, dtype=np.float32))
        case _:
            return None


def _percentile(x: Array, fmt: ScaledFormat, axes: tuple[int, ...], percent: float) -> Array:
    view = jnp.abs(grouped(x, fmt, axes))
    within = tuple(range(-len(axes), 0))
    flat = jnp.moveaxis(view, axes, within)
    flat = flat.reshape(*flat.shape[: within[0] + flat.ndim], -1)
    count = flat.shape[-1]
    largest = amax(view, axes)
    if not count:
        return without_groups(largest, fmt, axes)
    beyond = count - max(math.ceil(percent / 100 * count), 1)
    found = jax.lax.top_k(flat, beyond + 1)[0][..., -1]
    found = jnp.expand_dims(found, axes)
    return without_groups(jnp.where(jnp.isfinite(largest), found, largest), fmt, axes)


def _least_squares(x: Array, fmt: ScaledFormat, axes: tuple[int, ...], shares: np.ndarray) -> Array:
    largest = without_groups(amax(grouped(x, fmt, axes), axes), fmt, axes)

    def squared(magnitude: Array) -> Array:
        error = from_blocks(to_blocks(x, fmt, axis=axes, largest=magnitude)) - x
        total = jnp.sum(grouped(error * error, fmt, axes), axes, keepdims=True)
        return without_groups(total, fmt, axes)

    def step(best: tuple[Array, Array], share: Array) -> tuple[tuple[Array, Array], None]:
        tried = largest * share
        error = squared(tried)
        is_less = error < best[1]
        return (jnp.where(is_less, tried, best[0]), jnp.where(is_less, error, best[1])), None

    start = (largest, jnp.full_like(largest, np.inf))
    (found, _), _ = jax.lax.scan(step, start, jnp.asarray(shares))
    return found
