"""round_to against ml_dtypes, and against exact fractions where ml_dtypes is no oracle."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precis.formats import cast_to, parse, round_to

# Formats that both have; ml_dtypes converts from float32 with one rounding.
ORACLES = {
    "bf16": ml_dtypes.bfloat16,
    "e8m7": ml_dtypes.bfloat16,
    "f16": np.float16,
    "e5m10": np.float16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
}
FORMATS = [*ORACLES, "tf32", "e5m3", "e2m1", "e8m1", "e4m23", "f32"]


def near_ties(fmt) -> np.ndarray:
    """Every boundary between neighbors of a small format, and the float32s beside it."""
    exponents = np.arange(fmt.min_exponent - fmt.mantissa_bits - 2, fmt.max_exponent + 2)
    steps = np.arange(2 ** min(fmt.mantissa_bits + 1, 8)) / 2 ** min(fmt.mantissa_bits + 1, 8)
    ties = (np.ldexp(1.0 + steps, exponents[:, None])).astype(np.float32).ravel()
    ties = np.concatenate([ties, [fmt.max, np.nextafter(np.float32(fmt.max), np.inf)]])
    around = [np.nextafter(ties, np.float32(0)), ties, np.nextafter(ties, np.float32(np.inf))]
    return np.concatenate([sign * x for x in around for sign in (1, -1)]).astype(np.float32)


def patterns(fmt, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 3.4e38])
    with np.errstate(over="ignore"):
        return np.concatenate([bits.view(np.float32), special, near_ties(fmt)])


def same(got, want) -> np.ndarray:
    got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
    return (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))


def mismatches(name: str, count: int) -> int:
    x = patterns(parse(name), count)
    with np.errstate(all="ignore"):
        want = x.astype(ORACLES[name]).astype(np.float32)
    return int((~same(jax.jit(lambda x: round_to(x, name))(x), want)).sum())


@pytest.mark.world
@pytest.mark.parametrize("name", ORACLES)
def test_equals_ml_dtypes(name):
    assert mismatches(name, 2**18) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("name", ORACLES)
def test_equals_ml_dtypes_on_many_patterns(name):
    assert mismatches(name, 2**26) == 0


@pytest.mark.parametrize("name", ["f16", "bf16", "e5m2"])
def test_values_of_the_format_stay(name):
    codes = np.arange(2 ** parse(name).bits, dtype=np.uint16 if name != "e5m2" else np.uint8)
    values = codes.view(ORACLES[name]).astype(np.float32)
    assert same(round_to(values, name), values).all()


def nearest_even(x: float, fmt) -> float:
    """Round to nearest, ties to even, in exact rational arithmetic."""
    value = Fraction(x)
    if value == 0:
        return x
    exponent = max(int(np.floor(np.log2(abs(x)))), fmt.min_exponent)
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while exponent > fmt.min_exponent and abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - fmt.mantissa_bits)
    rounded = round(value / unit) * unit  # Python rounds halves to even
    if abs(rounded) > Fraction(fmt.max):
        return np.copysign(np.inf, x)
    return np.copysign(float(rounded), x)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from(FORMATS))
def test_equals_exact_fractions(x, name):
    assert same(round_to(np.float32(x), name), nearest_even(x, parse(name)))


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([*FORMATS, "f64"]))
def test_float64_is_rounded_once(x, name):
    with jax.enable_x64(True):
        got = np.asarray(round_to(np.float64(x), name))
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, nearest_even(x, parse(name)))


@pytest.mark.parametrize("name", FORMATS)
def test_is_idempotent_monotone_and_symmetric(name):
    x = np.sort(patterns(parse(name), 4096))
    x = x[np.isfinite(x)]
    y = np.asarray(round_to(x, name))
    assert same(round_to(y, name), y).all()
    assert (y[1:] >= y[:-1]).all()
    assert same(round_to(-x, name), -y).all()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (7,), (2, 3)])
def test_any_shape_eager_as_jitted(shape):
    x = jnp.full(shape, 0.3)
    assert round_to(x, "e5m3").shape == shape
    assert same(round_to(x, "e5m3"), jax.jit(lambda x: round_to(x, "e5m3"))(x)).all()


def test_gradient_is_straight_through_everywhere():
    x = jnp.float32([0.3, 1e-30, 1e30, -2.0])
    for gradient in (jax.grad, lambda f: jax.jacfwd(f)):
        np.testing.assert_array_equal(gradient(lambda x: round_to(x, "f16").sum())(x), 1.0)


def test_vmap_and_scan():
    x = jnp.linspace(-1, 1, 12, dtype=jnp.float32).reshape(3, 4)
    want = round_to(x, "e4m3")
    assert same(jax.vmap(lambda x: round_to(x, "e4m3"))(x), want).all()
    assert same(jax.lax.scan(lambda c, x: (c, round_to(x, "e4m3")), None, x)[1], want).all()


def test_narrow_input_is_widened():
    assert round_to(jnp.bfloat16(0.3), "e5m2").dtype == jnp.float32


def test_integers_are_refused():
    with pytest.raises(TypeError, match="floating-point array, got int32"):
        round_to(jnp.arange(3), "bf16")


def test_a_format_wider_than_the_carrier_is_refused():
    with pytest.raises(ValueError, match="f64 has values that f32 lacks"):
        round_to(jnp.ones(3), "f64")


@pytest.mark.parametrize(("name", "dtype"), [("bf16", "bfloat16"), ("f16", "float16")])
def test_cast_to_equals_a_convert(name, dtype):
    x = patterns(parse(name), 2**16)
    got = jax.jit(lambda x: cast_to(x, name))(x)
    assert got.dtype == dtype
    with np.errstate(all="ignore"):
        assert same(got, x.astype(got.dtype)).all()


def test_cast_to_keeps_its_rounding_although_the_compiler_may_drop_converts():
    def there_and_back(x):
        return cast_to(x, "bf16").astype(jnp.float32)

    x = jnp.float32(1 + 2.0**-10)
    for excess in (True, False):
        options = {"xla_allow_excess_precision": excess}
        assert jax.jit(there_and_back, compiler_options=options)(x) == 1.0
