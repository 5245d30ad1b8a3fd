"""Exponents from bits, powers of two into bits: against NumPy, which does not flush subnormals."""

import math

import jax
import numpy as np
import pytest

from precis.formats.bits import CARRIERS, exponent_of, split, times_power_of_two, to_float32
from tests.formats import oracle
from tests.formats.oracle import differing, enable_x64

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def every_power(dtype) -> np.ndarray:
    """All powers of two that `dtype` has, the numbers beside them, and their negatives."""
    info = np.finfo(dtype)
    lowest = info.minexp - info.nmant
    powers = np.ldexp(np.ones(1, dtype), np.arange(lowest, info.maxexp)).astype(dtype)
    sides = [np.nextafter(powers, dtype(0)), np.nextafter(powers, dtype(np.inf))]
    return np.concatenate([powers, *sides, -powers, *(-side for side in sides)])


@DTYPES
def test_split_parts_put_together_are_the_bits(dtype):
    x = np.concatenate([every_power(dtype), np.array([0.0, -0.0, np.inf, np.nan], dtype)])
    with enable_x64(True):
        sign, magnitude = jax.jit(split)(x)
    uint = CARRIERS[np.dtype(dtype)].uint
    np.testing.assert_array_equal(np.asarray(sign | magnitude), x.view(uint))
    np.testing.assert_array_equal(np.asarray(sign) != 0, np.signbit(x))
    np.testing.assert_array_equal(np.asarray(magnitude).view(dtype), np.abs(x))


@DTYPES
def test_exponents_are_exact_at_every_power_of_two(dtype):
    carrier = CARRIERS[np.dtype(dtype)]
    x = np.abs(every_power(dtype))
    x = x[(x > 0) & np.isfinite(x)]
    with enable_x64(True):
        got = np.asarray(jax.jit(lambda m: exponent_of(m, carrier))(x.view(carrier.uint)))
        zero = np.asarray(exponent_of(np.zeros(1, carrier.uint), carrier))
    want = np.array([math.frexp(float(value))[1] - 1 for value in x]) + carrier.format.bias
    np.testing.assert_array_equal(got, want)
    assert zero[0] < got.min()


@pytest.mark.parametrize(
    "exponent", [-300, -149, -127, -126, -24, -1, 0, 1, 23, 126, 127, 254, 300]
)
def test_products_with_powers_of_two_are_exact_or_truncated(exponent):
    x = np.concatenate([every_power(np.float32), oracle.draws(2**14)])
    got = np.asarray(jax.jit(times_power_of_two)(x, np.int32(exponent)))
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.ldexp(x.astype(np.float64), exponent)  # float64 has room for all of them
        nearest = exact.astype(np.float32)
        over = np.abs(exact) > np.finfo(np.float32).max
        away = np.abs(nearest.astype(np.float64)) > np.abs(exact)
    truncated = np.where(away & ~over, np.nextafter(nearest, np.float32(0)), nearest)
    want = np.where(over, np.copysign(np.float32(np.inf), x), truncated)
    # NumPy's rounding up to max + half a step is Inf, and beyond 2^128 so is ours.
    beyond = over & (np.abs(exact) < 2.0**128)
    assert not beyond.any()
    assert not len(differing(got, want))


def test_carriers_know_their_bits():
    for dtype, carrier in CARRIERS.items():
        assert carrier.bits_of(1.5) == int(np.array(1.5, dtype).view(carrier.uint))
        assert carrier.infinity == int(np.array(np.inf, dtype).view(carrier.uint))
        assert carrier.nan == int(np.array(np.nan, dtype).view(carrier.uint))
        assert carrier.sign_bit == int(np.array(-0.0, dtype).view(carrier.uint))


def test_float64_comes_into_float32_with_its_subnormals():
    x = np.concatenate([every_power(np.float32), oracle.draws(2**16)])
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
    with enable_x64(True):
        assert not len(differing(jax.jit(to_float32)(wide), x))
