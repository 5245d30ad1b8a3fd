"""From one storage to another, where `round_to` alone would not do."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from precis.formats import cast_to, parse, round_to
from tests.formats.oracle import enable_x64


@pytest.mark.parametrize("name", ["e2m1", "e2m3", "e3m2"])
def test_nan_stays_where_the_format_has_none(name):
    got = np.asarray(cast_to(jnp.float32([1.0, np.nan, -np.nan, 1e9]), name))
    np.testing.assert_array_equal(np.isnan(got), [False, True, True, False])
    assert got[3] == parse(name).max


@pytest.mark.world
@pytest.mark.parametrize("name", ["bf16", "f32", "e8m7"])
def test_subnormals_of_float64_arrive(name):
    # 1e-39 is 11 of bfloat16's smallest steps, 2^-133, and subnormal in float32 as well.
    with enable_x64(True):
        got = cast_to(jnp.float64(1e-39), name)
    want = {"f32": np.float32(1e-39)}.get(name, np.float32(11 * 2.0**-133))
    assert np.asarray(got).astype(np.float32).view(np.uint32) == want.view(np.uint32)


@pytest.mark.parametrize(("name", "dtype"), [("nf4", jnp.bfloat16), ("udynamic8", jnp.float16)])
def test_a_carrier_must_have_a_codebooks_values(name, dtype):
    with pytest.raises(ValueError, match=f"{name} has values that"):
        round_to(jnp.ones(3), name, carrier=dtype)


def _float32_around(first, count):
    return np.arange(first, first + count, dtype=np.uint32).view(np.float32)


def _assert_bfloat16(x):
    with np.errstate(invalid="ignore"):  # NaN among them
        want = x.astype(ml_dtypes.bfloat16)
    got = jax.jit(lambda x: cast_to(x, "bf16"))(x)
    same = np.asarray(got).view(np.uint16) == want.view(np.uint16)
    assert (same | (np.isnan(x) & np.isnan(np.asarray(got).astype(np.float32)))).all()


@pytest.mark.world
def test_float32_to_bfloat16_is_the_nearest():
    ends = [0, 0x7F7F0000, 0x7F800000 - 0x8000, 0x80000000, 0x3F800000, 0xFFFF0000]
    for first in ends:  # zero and subnormals, the largest, infinity and NaN, -0, 1
        _assert_bfloat16(_float32_around(first, 1 << 16))


@pytest.mark.nightly
def test_every_float32_to_bfloat16():
    for first in range(0, 1 << 32, 1 << 24):
        _assert_bfloat16(_float32_around(first, 1 << 24))
