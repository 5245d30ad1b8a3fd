"""Codes and scales beside what other libraries made of the same rows.

`experiments/peers/quantizers.py` recorded them. Where conventions differ, the test says how.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from precis.quant import dequantize, quantize_array

PEERS = np.load(Path(__file__).parent / "peers.npz")
X = PEERS["x"]
# The scales of these rows are powers of two, so that every convention has the same ones. Half of
# their values are ties.
EXACT = slice(16, None)


def ulps(a, b):
    return np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32))


@pytest.fixture(scope="module")
def ours():
    return quantize_array(jnp.asarray(X), "int8", axis=-1)


def test_bitsandbytes_int8(ours):
    # It rounds x · (127 / absmax), we x · (1 / (absmax · (1 / 127))): never apart in these rows.
    np.testing.assert_array_equal(ours.codes, PEERS["bitsandbytes_int8_codes"])
    absmax = PEERS["bitsandbytes_int8_absmax"]
    scale = np.asarray(ours.scale)[:, 0]
    np.testing.assert_array_equal(scale, absmax * np.float32(1 / 127))
    assert ulps(scale, absmax / np.float32(127)).max() <= 1


def test_bitsandbytes_int8_of_halves():
    x = X.astype(np.float16)
    ours = quantize_array(jnp.asarray(x), "int8", axis=-1)
    np.testing.assert_array_equal(ours.codes, PEERS["bitsandbytes_int8_half_codes"])
    absmax = PEERS["bitsandbytes_int8_half_absmax"]
    np.testing.assert_array_equal(np.asarray(ours.scale)[:, 0], absmax * np.float32(1 / 127))


def test_bitsandbytes_nf4():
    ours = quantize_array(jnp.asarray(X), "nf4@block64", axis=-1)
    packed = PEERS["bitsandbytes_nf4_packed"].reshape(len(X), -1)
    # Its first code of a byte is the upper one, ours the lower one.
    codes = np.stack([packed >> 4, packed & 15], -1).reshape(X.shape)
    np.testing.assert_array_equal(ours.codes, codes)
    np.testing.assert_array_equal(ours.values, (packed >> 4) | (packed << 4))
    np.testing.assert_array_equal(np.ravel(ours.scale), PEERS["bitsandbytes_nf4_absmax"])
    np.testing.assert_array_equal(dequantize(ours), PEERS["bitsandbytes_nf4_values"])


def test_torchao_int8_of_a_tokens_activations(ours):
    # It divides absmax by 127, we multiply by 1 / 127: an ulp of the scale in one row of 24.
    np.testing.assert_array_equal(ours.codes, PEERS["torchao_token_codes"])
    scale, theirs = np.asarray(ours.scale)[:, 0], PEERS["torchao_token_scale"]
    assert ulps(scale, theirs).max() <= 1
    np.testing.assert_array_equal(scale[EXACT], theirs[EXACT])


def test_torchao_int8_of_a_weights_channels(ours):
    # It spreads absmax over -128 … 127, and so divides it by 127.5: another grid, of as fine a
    # step, on which the largest positive value saturates.
    theirs, scale = PEERS["torchao_channel_scale"], np.asarray(ours.scale)[:, 0]
    np.testing.assert_allclose(theirs * 127.5, scale * 127, rtol=2**-22)
    codes = PEERS["torchao_channel_codes"].astype(np.int64)
    steps = X * (np.float32(1) / theirs)[:, None]
    np.testing.assert_array_equal(codes, np.clip(np.rint(steps), -128, 127))
    assert np.abs(codes - np.asarray(ours.codes)).max() == 1
