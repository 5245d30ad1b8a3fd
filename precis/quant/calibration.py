"""Calibration: what magnitude, or what range, a group of values is scaled by.

The largest magnitude clips nothing; a smaller one rounds all others more finely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

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
from precis.types import did_you_mean


@dataclass(frozen=True, slots=True)
class AbsMax:
    """By the largest magnitude."""


@dataclass(frozen=True, slots=True)
class MinMax:
    """By the range from min(x, 0) to max(x, 0), with a zero point: integers alone."""


@dataclass(frozen=True, slots=True)
class Percentile:
    """By the smallest magnitude that at least `percent` of a group do not exceed.

    Attributes:
        percent: Above 0, at most 100. Zeros that fill up a last block count as values.
    """

    percent: float = 99.9


@dataclass(frozen=True, slots=True)
class Mse:
    """By that share of the largest magnitude which makes the sum of squared errors smallest.

    Attributes:
        steps: How many shares are tried, evenly from 1 down; of equal ones the largest wins.
        smallest: The last of them.
    """

    steps: int = 15
    smallest: float = 0.3


Calibration: TypeAlias = AbsMax | MinMax | Percentile | Mse


def read_calibration(text: Calibration | str) -> Calibration:
    """`absmax`, `minmax`, `mse`, `percentile` or `percentile=99.5`.

    >>> read_calibration("percentile=99.5")
    Percentile(percent=99.5)

    Raises:
        ValueError: Another text, or a percentile that is none.
    """
    if isinstance(text, Calibration):
        return text
    name, equals, number = str(text).partition("=")
    if name == "percentile" and equals:
        percent = float(number) if _is_number(number) else math.nan
        if not 0 < percent <= 100:
            raise ValueError(f"{text!r}: a percentile is above 0 and at most 100")
        return Percentile(percent)
    if equals or name not in _NAMED:
        raise ValueError(f"no calibration is called {text!r}{did_you_mean(name, _NAMED)}")
    return _NAMED[name]


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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_NAMED = {
    "absmax": AbsMax(),
    "minmax": MinMax(),
    "percentile": Percentile(),
    "mse": Mse(),
}
