"""Powers of two as scales: each rule against exact fractions; maxima that keep NaN."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.formats import parse, scale_exponents
from precis.formats.bits import times_power_of_two
from precis.formats.scales import amax, exact_amax

GRIDS = ["e4m3fn", "e5m2", "e2m1", "e2m3", "e3m2", "int8q6", "int8", "int4"]


def floor_log2(x: Fraction) -> int:
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    return exponent if x >= Fraction(2) ** exponent else exponent - 1


def exact(value: float, grid, rule: str) -> int:
    x, largest = Fraction(float(value)), Fraction(grid.max)
    if x == 0:
        return -127
    top, exponent = floor_log2(largest), floor_log2(x)
    if rule == "ceil":
        exponent += x != Fraction(2) ** exponent
    elif rule == "rceil":
        exponent += x / Fraction(2) ** exponent > largest / Fraction(2) ** top
    elif rule == "even":
        steps = getattr(
            grid, "mantissa_bits", floor_log2(largest) + getattr(grid, "fraction_bits", 0)
        )
        exponent = floor_log2(x + Fraction(2) ** (exponent - steps - 1))
    return max(-127, min(127, exponent - top))


def magnitudes():
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    shaped = [powers * np.float32(s) for s in (1.0, 1.5, 1.75, 1.875, 1.9375, 1.984375, 1.99)]
    x = np.concatenate(shaped)
    x = np.concatenate([x, np.nextafter(x, np.float32(0)), np.nextafter(x, np.float32(np.inf))])
    drawn = np.random.default_rng(0).integers(0, 0x7F800000, 2000).astype(np.uint32)
    x = np.concatenate([x, drawn.view(np.float32), [np.float32(0)]])
    return np.abs(x[np.isfinite(x)])


@pytest.mark.world
@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil"])
@pytest.mark.parametrize("name", GRIDS)
def test_every_rule_is_exact(name, rule):
    x, grid = magnitudes(), parse(name)
    got = jax.jit(lambda x: scale_exponents(x, grid, rule))(x)
    np.testing.assert_array_equal(got, [exact(value, grid, rule) for value in x])


@pytest.mark.parametrize("name", GRIDS)
def test_even_rounds_the_maximum_first(name):
    x, grid = magnitudes(), parse(name)
    x = x[x >= np.finfo(np.float32).smallest_normal]
    got = scale_exponents(x, grid, "even")
    np.testing.assert_array_equal(got, [exact(value, grid, "even") for value in x])


@pytest.mark.world
def test_a_power_of_two_is_multiplied_in_exactly():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**32, 2**14, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([x, np.float32([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40])])
    k = rng.integers(-300, 300, x.size).astype(np.int32)
    k[::3] //= 30
    got = np.asarray(jax.jit(times_power_of_two)(x, k))
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64) * 2.0**k
    # What float32 holds exactly must come out; the rest is truncated or Inf.
    with np.errstate(over="ignore"):
        held = wide.astype(np.float32)
    exact_ones = (held.astype(np.float64) == wide) | ~np.isfinite(wide)
    assert exact_ones.sum() > 4000
    np.testing.assert_array_equal(
        got[exact_ones].view(np.uint32) & 0x7FFFFFFF,
        np.where(np.isnan(x), x, held)[exact_ones].view(np.uint32) & 0x7FFFFFFF,
    )
    assert np.isinf(got[np.isfinite(x) & (np.abs(wide) >= 2.0**128)]).all()


@pytest.mark.world
def test_a_maximum_keeps_nan():
    x = jnp.ones(65536).at[5].set(jnp.nan)
    assert jnp.isnan(jax.jit(lambda x: exact_amax(x, (0,)))(x))[0]
    assert jnp.isinf(jax.jit(lambda x: amax(x, (0,)))(x))[0]
    assert amax(jnp.float32([-3.0, 2.0, -0.0]), (0,))[0] == 3
    assert amax(jnp.zeros((0, 2), jnp.float32), (0,)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_the_maximum_of_a_large_array_is_exact(axes):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2**32, (517, 613), dtype=np.uint64).astype(np.uint32).view(np.float32)
    x[::7, ::5] = np.nan
    x[3], x[:, 4] = 0, -2.0
    x[3, 4] = 1e-40
    finite = np.where(np.isnan(x), np.inf, np.abs(x))
    finite[finite < np.finfo(np.float32).smallest_normal] = 0  # as the backend flushes them
    np.testing.assert_array_equal(
        jax.jit(amax, static_argnums=1)(x, axes), finite.max(axes, keepdims=True)
    )
    got = np.asarray(jax.jit(exact_amax, static_argnums=1)(x, axes))
    bits = (x.view(np.uint32) & 0x7FFFFFFF).max(axes, keepdims=True)
    np.testing.assert_array_equal(got.view(np.uint32), bits)


@pytest.mark.parametrize("axes", [(-2, -1), (1, 2), (0, 1), (0, 2), (-1, 0), (0, 1, 2), (2,)])
@pytest.mark.parametrize("find", [amax, exact_amax])
def test_of_a_large_array_over_several_axes(find, axes):
    x = np.random.default_rng(2).standard_normal((64, 66, 67)).astype(np.float32)
    x[5, 6, 7] = np.nan
    got = jax.jit(lambda x: find(x, axes))(x)
    wanted = np.abs(x).max(axes, keepdims=True)
    if find is amax:
        wanted[np.isnan(wanted)] = np.inf
    np.testing.assert_array_equal(got, wanted)
