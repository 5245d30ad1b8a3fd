"""Calibrations against NumPy, and against trying every share by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from precis.formats import parse
from precis.quant import Mse, Percentile, dequantize, quantize_array, read_calibration


def heavy(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_t(2, shape), jnp.float32)


def error(x, q):
    return ((np.float64(dequantize(q)) - np.float64(x)) ** 2).sum(0)


@pytest.mark.parametrize("percent", [50, 99.0])
def test_a_percentile_is_one_of_the_magnitudes(percent):
    x = heavy(0, 200, 5)
    q = quantize_array(x, "int8", calibrate=Percentile(percent))
    largest = np.quantile(np.abs(x), percent / 100, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(q.scale[0], largest * np.float32(1 / 127))


def test_of_blocks_each_has_its_own():
    x = heavy(1, 64, 3)
    q = quantize_array(x, "int4@block32", calibrate="percentile=90")
    blocks = np.abs(x).reshape(2, 32, 3)
    largest = np.quantile(blocks, 0.9, axis=1, method="inverted_cdf")
    np.testing.assert_array_equal(q.scale, largest * np.float32(1 / 7))


def test_what_lies_beyond_saturates():
    x = heavy(2, 200, 5)
    q = quantize_array(x, "int8", calibrate="percentile=90")
    # Two's complement reaches one step further down.
    assert (np.asarray(q.codes).max(0) == 127).all()
    assert (np.asarray(q.codes).min(0) == -128).all()


@pytest.mark.world
@pytest.mark.parametrize("fmt", ["int4@channel", "nf4@block100"])
def test_mse_finds_the_best_of_its_shares(fmt):
    x = heavy(3, 100, 6)
    how = Mse(steps=8, smallest=0.3)
    found = error(x, quantize_array(x, fmt, calibrate=how))
    grid = parse(fmt).grid
    tried = []
    for share in np.linspace(1, 0.3, 8, dtype=np.float32):
        # A larger value on top of a column, which is then cut off, makes the scale that share.
        scale = np.abs(np.asarray(x)).max(0) * share * np.float32(1 / grid.max)
        values = np.array(sorted({grid.value_of(c) for c in range(2**grid.bits)}))
        scaled = np.float64(x) / scale
        nearest = values[np.abs(scaled[..., None] - values).argmin(-1)]
        tried.append(((nearest * scale - np.float64(x)) ** 2).sum(0))
    # Sums in float32 may take one share for another where both are that close.
    np.testing.assert_allclose(found, np.min(tried, 0), rtol=1e-4)
    assert (found < error(x, quantize_array(x, fmt))).any()


def test_mse_keeps_the_largest_of_equal_shares():
    x = jnp.full((8, 2), 3.0)
    q = quantize_array(x, "int8", calibrate=Mse(steps=1))
    np.testing.assert_array_equal(q.scale, np.float32([[3, 3]]) * np.float32(1 / 127))


def test_calibrations_are_read_from_text():
    assert read_calibration("percentile=99.5") == Percentile(99.5)
    assert read_calibration("mse") == Mse()
    with pytest.raises(ValueError, match="did you mean 'minmax'"):
        read_calibration("min_max")
    for text in ("percentile=0", "percentile=101", "percentile=x", "percentile=nan"):
        with pytest.raises(ValueError, match="above 0 and at most 100"):
            read_calibration(text)
    with pytest.raises(ValueError, match="no calibration"):
        read_calibration("mse=3")
