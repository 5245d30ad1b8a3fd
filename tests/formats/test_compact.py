"""Blocks as bytes, against `quantize_dequantize`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.formats import (
    Compact,
    compact_format,
    compact_zeros,
    compress,
    decompress,
    parse,
    quantize_dequantize,
)

NAMES = "int8 int4 dynamic8 udynamic8 nf4 e4m3fn e5m2 e3m4 e2m1 uint8 e4m3fnuz".split()


def rows(block, seed=0):
    """Of all magnitudes, with ties, zeros, and what is not finite."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(2, (64, block)) * 10.0 ** rng.uniform(-30, 30, (64, 1))
    x[1] = np.round(rng.uniform(-127, 127, block) * 2) / 2
    x[1, 0] = 127  # a scale of 1: halves are ties
    x[2] = 0
    x[3, 5], x[4, 5], x[5, 5] = np.nan, np.inf, -np.inf
    return np.float32(x)


@pytest.mark.parametrize("block", [32, 256])
@pytest.mark.parametrize("name", NAMES)
def test_what_comes_back_is_what_the_format_says(name, block):
    fmt = compact_format(f"{name}@block{block}")
    x = rows(block)
    x = np.abs(x) if name in ("uint8", "udynamic8") else x
    both = jax.jit(lambda x: (compress(x, fmt), decompress(compress(x, fmt), fmt)))
    compact, got = both(x)
    assert (compact.codes.dtype, compact.scales.dtype) == (np.uint8, np.float32)
    assert (compact.codes.shape, compact.scales.shape) == (x.shape, (64,))
    np.testing.assert_array_equal(got, quantize_dequantize(x, fmt))


@pytest.mark.parametrize("name", NAMES)
def test_zeros_are_compressed_zeros(name):
    fmt = compact_format(f"{name}@block16")
    want = compress(jnp.zeros((3, 16)), fmt)
    for a, b in zip(compact_zeros(3, fmt), want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert isinstance(want, Compact)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int8", "blocks with float32 scales"),
        ("int8@channel", "blocks with float32 scales"),
        ("mxfp8_e4m3", "blocks with float32 scales"),
        ("bf16@block32", "at most 8 bits"),
        ("int8(stochastic)@block32", "rounded to nearest"),
    ],
)
def test_what_it_does_not_take(name, message):
    with pytest.raises(ValueError, match=message):
        compact_format(parse(name))
