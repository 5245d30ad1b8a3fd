"""Rounding without arithmetic: list every value of a format, and compare with exact midpoints.

Of a format, only `value_of` and what its figures promise is used; of an input, only its order
among values and midpoints, which float64 holds exactly. `rounded_by_fractions` is for formats with
too many values to list.
"""

import functools
import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.experimental
import numpy as np

from precis.formats import Codebook, FloatFormat, Grid, Rounded

# Newer versions of jax have it at the top.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


class Ladder(NamedTuple):
    """Ascending values, whose codes are even, and the midpoints between them."""

    values: np.ndarray
    even: np.ndarray
    midpoints: np.ndarray


class Between(NamedTuple):
    """The neighbors of each input, equal for a value of the format, and what is upon them."""

    low: np.ndarray
    high: np.ndarray
    middle: np.ndarray
    high_is_even: np.ndarray


@functools.cache
def ladder(grid: Grid) -> Ladder:
    """All values of a format of few bits; a float's also one step beyond both ends."""
    assert grid.bits <= 16, "too many values to list"
    steps = {}
    for code in range(len(grid.values) if isinstance(grid, Codebook) else 2**grid.bits):
        value = grid.value_of(code)
        if math.isfinite(value):
            steps[value] = code % 2 == 0
    if isinstance(grid, FloatFormat):
        beyond = max(steps) + 2.0 ** (grid.max_exponent - grid.mantissa_bits)
        steps[beyond] = not steps[max(steps)]
        if grid.is_signed:
            steps[-beyond] = steps[beyond]
    values = sorted(steps)
    midpoints = [(Fraction(a) + Fraction(b)) / 2 for a, b in itertools.pairwise(values)]
    assert all(Fraction(float(middle)) == middle for middle in midpoints)
    return Ladder(
        np.array(values), np.array([steps[v] for v in values]), np.array(midpoints, np.float64)
    )


def between(x, grid: Grid) -> Between:
    """Where finite or infinite x: [...] lies among the values."""
    values, even, midpoints = ladder(grid)
    x = np.clip(np.asarray(x, np.float64), values[0], values[-1])
    low = np.searchsorted(values, x, side="right") - 1
    high = np.where(values[low] == x, low, low + 1)
    middle = midpoints[np.minimum(low, len(midpoints) - 1)]
    return Between(values[low], values[high], middle, even[high])


def rounded(x, how: Rounded) -> np.ndarray:
    """[...] float64: what `round_to` promises for x: [...] float32 or float64."""
    x = _float64(x)
    grid, mode = how.grid, how.rounding
    number = np.where(np.isnan(x), 0, x)
    if isinstance(grid, FloatFormat) and not grid.is_signed and mode == "nearest_even":
        # As XLA and ml_dtypes do: ties go up, and so does what lies between the smallest two.
        mode = "nearest_away"
        low, high = ladder(grid).values[:2]
        number = np.where((number > low) & (number < high), high, number)
    low, high, middle, high_is_even = between(number, grid)
    match mode:
        case "nearest_even":
            up = (number > middle) | (number == middle) & high_is_even
            if isinstance(grid, Codebook):
                up = number > middle
        case "nearest_away":
            up = (number > middle) | (number == middle) & (number > 0)
        case "toward_zero":
            up = number < 0
        case _:
            up = np.full(x.shape, mode == "up")
    return finish(x, np.where(up, high, low), how)


def rounded_by_fractions(x: float, how: Rounded) -> float:
    """The same for one number and a float format with a fraction, by Python's fractions."""
    grid, value = how.grid, Fraction(x)
    exponent = max(math.frexp(x)[1] - 1, grid.min_exponent) if x else grid.min_exponent
    unit = Fraction(2) ** (exponent - grid.mantissa_bits)
    scaled = value / unit
    whole = {
        "nearest_even": round,  # Python's rounds halves to even
        "nearest_away": lambda q: int(math.copysign(math.floor(abs(q) + Fraction(1, 2)), q)),
        "toward_zero": math.trunc,
        "up": math.ceil,
        "down": math.floor,
    }[how.rounding](scaled)
    result = whole * unit
    beyond = abs(result) > Fraction(grid.max)
    result = math.copysign(math.inf, x) if beyond else float(result)
    return float(finish(np.float64(x), np.float64(result), how))


def _float64(x) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a signaling NaN becomes a quiet one
        return np.asarray(x, np.float64)


def finish(x: np.ndarray, result: np.ndarray, how: Rounded) -> np.ndarray:
    """What overflow, NaN, subnormals and zeros become, once neighbors have been chosen."""
    grid = how.grid
    is_float = isinstance(grid, FloatFormat)
    has_inf, has_nan = is_float and grid.has_inf, is_float and grid.has_nan
    if is_float:
        top = np.inf if has_inf else np.nan if has_nan else grid.max
        beyond = {"saturate": grid.max, "inf": np.inf, "nan": np.nan}.get(how.overflow, top)
        beyond = np.full(np.shape(x), beyond)
        if how.overflow in (None, "ieee"):
            inward = (
                (how.rounding == "toward_zero")
                | ((how.rounding == "up") & (x < 0))
                | ((how.rounding == "down") & (x > 0))
            )
            beyond = np.where(inward & np.isfinite(x), grid.max, beyond)
        if how.overflow == "nan":
            beyond = np.where(np.isinf(x), top, beyond)
        result = np.where(np.abs(result) > grid.max, np.copysign(beyond, x), result)
        if how.subnormals == "flush":
            result = np.where(np.abs(result) < grid.smallest_normal, 0.0, result)
    result = np.where(np.isnan(x), np.nan if has_nan else 0.0, result)
    if is_float and not grid.has_zero:
        result = np.where(x <= 0, np.nan, result)
    if is_float and grid.has_negative_zero:
        signed = np.where(np.isnan(x), -0.0, np.copysign(0.0, x))
        return np.where(result == 0, signed, result)
    return result + 0.0  # of two zeros, the positive one


def boundaries(grid: Grid, dtype=np.float32) -> np.ndarray:
    """Every value and midpoint of a listed format in `dtype`, and the numbers on both sides."""
    values, _, midpoints = ladder(grid)
    info = np.finfo(dtype)
    exact = np.concatenate([values, midpoints, SPECIAL, [1.5 * grid.max, 2 * grid.max, -grid.max]])
    with np.errstate(over="ignore"):
        at = exact.astype(dtype)
        ends = np.array([info.max, -info.max, info.smallest_subnormal, info.tiny], dtype)
        sides = [np.nextafter(at, dtype(-np.inf)), np.nextafter(at, dtype(np.inf))]
        return np.concatenate([at, *sides, ends, -ends])


SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 1e-38, -3.4e38, 0.1, 1e300])


def draws(count: int, dtype=np.float32) -> np.ndarray:
    """`count` random bit patterns, the same each time."""
    uint = np.uint32 if dtype == np.float32 else np.uint64
    info = np.iinfo(uint)
    bits = np.random.default_rng(0).integers(0, info.max, count, dtype=uint, endpoint=True)
    return bits.view(dtype)


def near(grid: Grid, count: int, dtype=np.float64) -> np.ndarray:
    """`count` random numbers, uniform in exponent from below the smallest value to beyond `max`."""
    rng = np.random.default_rng(1)
    smallest = grid.smallest_subnormal if isinstance(grid, FloatFormat) else grid.max / 256
    low, high = math.log2(smallest) - 4, math.log2(grid.max) + 2
    sizes = 2.0 ** rng.uniform(low, high, count)
    with np.errstate(over="ignore"):
        return (rng.choice([-1.0, 1.0], count) * sizes).astype(dtype)


def differing(got, want) -> np.ndarray:
    """Indices where the bits differ; any NaN equals any other."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype, (got.dtype, want.dtype)
    assert got.shape == want.shape, (got.shape, want.shape)
    uint = {4: np.uint32, 8: np.uint64}[got.dtype.itemsize]
    got, want = np.ravel(got), np.ravel(want)
    found = np.flatnonzero(got.view(uint) != want.view(uint))
    return found[~(np.isnan(got[found]) & np.isnan(want[found]))]
