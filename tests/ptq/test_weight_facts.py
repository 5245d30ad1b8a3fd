"""What a weight lost, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.ptq.weight_facts import weight_facts
from precis.quant import Kernel, QTensor, dequantize, quantize_array


def normal(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def expected_db(x, back):
    wide = np.asarray(x, np.float64)
    noise = np.asarray(back, np.float64) - wide
    return 10 * np.log10(np.sum(wide**2) / np.sum(noise**2))


@pytest.mark.parametrize("fmt", ["int8", "int4", "nf4", "e4m3fn@channel", "nvfp4"])
def test_sqnr_and_zeros(fmt):
    x = normal(128, 64)
    stored = quantize_array(x, fmt)
    facts = weight_facts(x, stored)
    back = np.asarray(dequantize(stored))
    assert facts.sqnr_db == pytest.approx(expected_db(x, back), abs=1e-3)
    assert facts.zeros == pytest.approx((back == 0).mean(), abs=1e-6)


def test_the_largest_magnitude_clips_nothing():
    for fmt in ("int8", "int4", "nf4", "e4m3fn@channel"):
        x = normal(256, 64)
        assert weight_facts(x, quantize_array(x, fmt)).clipped == 0


def test_a_percentile_clips_what_is_beyond_its_grid():
    x = normal(1000, 4)
    stored = quantize_array(x, "int8", calibrate="percentile=99")
    assert isinstance(stored, QTensor)
    scale, wide = np.asarray(stored.scale, np.float64), np.asarray(x, np.float64)
    outside = (wide > 127 * scale * (1 + 1e-6)) | (wide < -128 * scale * (1 + 1e-6))
    assert weight_facts(x, stored).clipped == pytest.approx(outside.mean(), abs=1e-6)
    assert 0.002 < outside.mean() < 0.02


def test_smoothing_belongs_to_the_weight():
    x, vector = normal(64, 16), jnp.linspace(1, 8, 64)[:, None]
    stored = Kernel(quantize_array(x * vector, "int8"), None, vector)
    facts = weight_facts(x, stored)
    back = np.asarray(dequantize(stored.weight)) / np.asarray(vector)
    assert facts.sqnr_db == pytest.approx(expected_db(x, back), abs=1e-2)
    assert facts.clipped == 0


def test_what_is_exact_and_what_is_nan():
    exact = jnp.float32([[127, -3], [5, 127]])
    assert weight_facts(exact, quantize_array(exact, "int8")).sqnr_db == np.inf
    bad = exact.at[0, 0].set(jnp.nan)
    assert np.isnan(weight_facts(bad, quantize_array(bad, "int8")).sqnr_db)
