"""Codes of every format against ml_dtypes and against the specs' own decoding, all of them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from precis.formats import CATALOGUE, decode, encode, parse, round_to
from precis.formats.codes import code_dtype
from tests.formats.oracle import enable_x64

ODD = ["e5m7", "e2m2", "e5m0fn", "e2m0fnuz", "e8m3fnuz", "e4m3fn", "int3", "uint5", "int8q6"]
SMALL = [name for name in [*CATALOGUE, *ODD] if parse(name).bits <= 16]
STORED = [name for name in SMALL if name.startswith(("float", "bfloat"))]


def every_code(name):
    fmt = parse(name)
    codes = np.arange(2**fmt.bits).astype(code_dtype(fmt))
    return codes, np.array([fmt.value_of(int(code)) for code in codes])


def patterns(count, seed=0):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 3.4e38])
    return np.concatenate([bits.view(np.float32), special])


def same(got, want):
    equal = (got == want) & (np.signbit(got) == np.signbit(want))
    return equal | (np.isnan(got) & np.isnan(want))


@pytest.mark.world
@pytest.mark.parametrize("name", SMALL)
def test_every_code_has_the_value_that_the_spec_derives(name):
    codes, values = every_code(name)
    assert same(np.asarray(decode(codes, name)).astype(np.float64), values).all()


@pytest.mark.parametrize("name", STORED)
def test_every_code_has_the_value_that_ml_dtypes_reads(name):
    codes, _ = every_code(name)
    dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    want = codes.view(dtype).astype(np.float32)
    assert same(np.asarray(decode(codes, name)), want).all()


@pytest.mark.parametrize("name", SMALL)
def test_every_code_but_nan_comes_back(name):
    codes, values = every_code(name)
    back = np.asarray(jax.jit(lambda c: encode(decode(c, name), name))(codes))
    np.testing.assert_array_equal(back[~np.isnan(values)], codes[~np.isnan(values)])
    assert np.isnan(np.asarray(decode(back, name))[np.isnan(values)]).all()


@pytest.mark.parametrize("name", [*CATALOGUE, *ODD, "e8m7", "e8m22fnuz", "e7m23"])
def test_decoding_a_code_is_rounding(name):
    if name == "float64":
        pytest.skip("wider than the float32 patterns that are drawn here")
    x = patterns(2**14)
    got = np.asarray(jax.jit(lambda x: decode(encode(x, name), name))(x))
    assert same(got, np.asarray(round_to(x, name))).all()


def test_decoding_a_code_is_rounding_in_float64():
    with enable_x64(True):
        x = np.random.default_rng(0).standard_normal(2040) * 2.0 ** np.arange(-1020, 1020)
        for name in ("float64", "bf16", "e8m3fnuz", "e8m0", "f16"):
            got = np.asarray(decode(encode(x, name), name, carrier=jnp.float64))
            assert same(got, np.asarray(round_to(x, name))).all()


@pytest.mark.parametrize("name", [n for n in STORED if parse(n).has_nan and n != "float16"])
def test_codes_are_those_of_a_cast_by_ml_dtypes(name):
    x = patterns(2**16)
    dtype = np.dtype(getattr(ml_dtypes, name))
    with np.errstate(all="ignore"):
        want = x.astype(dtype).view(code_dtype(parse(name)))
    np.testing.assert_array_equal(encode(x, name), want)


def test_integers_are_twos_complement():
    x = np.arange(-200, 200, dtype=np.float32)
    want = np.clip(x, -128, 127).astype(np.int8).view(np.uint8)
    np.testing.assert_array_equal(encode(x, "int8"), want)
    np.testing.assert_array_equal(decode(want, "int8"), np.clip(x, -128, 127))


def test_options_of_the_format_are_heeded():
    assert decode(encode(jnp.float32([1e6]), "f16(overflow=saturate)"), "f16")[0] == 65504
    key = jax.random.key(0)
    drawn = decode(encode(jnp.full(1000, 1.0625), "e5m2(stochastic)", key=key), "e5m2")
    assert set(np.asarray(drawn)) == {1.0, 1.25}


def test_wide_integers_want_a_wide_carrier():
    with pytest.raises(ValueError, match="int32 has values that float32 lacks"):
        decode(jnp.uint32([7]), "int32", carrier=np.float32)
    with pytest.raises(ValueError, match="wants x64 enabled"):
        decode(jnp.uint32([7]), "int32")
    with enable_x64(True):
        x = np.float64([2147483647, -16777217])
        np.testing.assert_array_equal(decode(encode(x, "int32"), "int32"), x)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)])
def test_any_shape(shape):
    codes = encode(jnp.ones(shape), "e2m1")
    assert codes.shape == shape
    assert decode(codes, "e2m1").shape == shape


def test_clear_errors():
    with pytest.raises(TypeError, match="unsigned integers, got float32"):
        decode(jnp.ones(3), "e4m3fn")
    with pytest.raises(ValueError, match="without scale"):
        decode(jnp.zeros(3, jnp.uint8), "mxfp4")
    with pytest.raises(ValueError, match="scales them first"):
        encode(jnp.ones(3), "int8@tensor")
    with pytest.raises(TypeError, match="floating-point"):
        encode(jnp.ones(3, jnp.int8), "int8")
