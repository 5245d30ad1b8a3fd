"""Derived figures against ml_dtypes' and NumPy's own, and against every code that there is."""

import math

import ml_dtypes
import numpy as np
import pytest

from precis.formats import Codebook, FloatFormat, IntFormat, parse

STORED = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}
# Max, smallest normal and smallest positive value, counts of NaN and Inf, as decoded from codes.
TABLE = {
    "f16": (65504, 2.0**-14, 2.0**-24, 2046, 2),
    "bf16": ((2 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-133, 254, 2),
    "e4m3fn": (448, 2.0**-6, 2.0**-9, 2, 0),
    "e5m2": (57344, 2.0**-14, 2.0**-16, 6, 2),
    "e4m3": (240, 2.0**-6, 2.0**-9, 14, 2),
    "e4m3fnuz": (240, 2.0**-7, 2.0**-10, 1, 0),
    "e5m2fnuz": (57344, 2.0**-15, 2.0**-17, 1, 0),
    "e2m3": (7.5, 1, 0.125, 0, 0),
    "e3m2": (28, 0.25, 2.0**-4, 0, 0),
    "e2m1": (6, 1, 0.5, 0, 0),
    "e8m0": (2.0**127, 2.0**-127, 2.0**-127, 1, 0),
}
SMALL = [*(name for name in STORED if name not in ("f32", "f64")), "e5m3", "e5m0fn", "e8m3fnuz"]


@pytest.mark.world
@pytest.mark.parametrize(("name", "dtype"), STORED.items())
def test_figures_are_those_of_the_dtype(name, dtype):
    fmt, info = parse(name), ml_dtypes.finfo(dtype)
    assert (fmt.max, fmt.bits) == (float(info.max), info.bits)
    if name != "e8m0":  # whose finfo has figures of a format with a fraction
        assert fmt.min == float(info.min)
        assert fmt.eps == float(info.eps)
        assert fmt.smallest_normal == float(info.smallest_normal)
        assert fmt.smallest_subnormal == float(info.smallest_subnormal)


@pytest.mark.world
@pytest.mark.parametrize("name", [name for name in SMALL if name in STORED])
def test_every_code_has_the_value_that_ml_dtypes_gives_it(name):
    dtype, fmt = np.dtype(STORED[name]), parse(name)
    codes = np.arange(2**fmt.bits).astype(f"uint{8 * dtype.itemsize}")
    with np.errstate(invalid="ignore"):  # signaling NaN
        want = codes.view(dtype).astype(np.float64)
    got = np.array([fmt.value_of(int(code)) for code in codes])
    np.testing.assert_array_equal(got, want)
    zeros = got == 0
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(want[zeros]))


@pytest.mark.parametrize("name", TABLE)
def test_the_known_table(name):
    fmt = parse(name)
    values = [fmt.value_of(code) for code in range(2**fmt.bits)]
    got = (sum(map(math.isnan, values)), sum(map(math.isinf, values)))
    assert (fmt.max, fmt.smallest_normal, fmt.smallest_subnormal, *got) == TABLE[name]


@pytest.mark.parametrize("name", SMALL)
def test_figures_and_predicates_follow_from_the_values(name):
    fmt = parse(name)
    values = [fmt.value_of(code) for code in range(2**fmt.bits)]
    finite = sorted({value for value in values if math.isfinite(value)})
    positive = [value for value in finite if value > 0]
    assert (fmt.min, fmt.max) == (finite[0], finite[-1])
    assert fmt.value_of(fmt.max_code) == fmt.max
    assert math.frexp(fmt.max)[1] - 1 == fmt.max_exponent
    assert fmt.smallest_normal == 2.0**fmt.min_exponent
    assert fmt.smallest_subnormal == positive[0]
    above = [value for value in finite if value > 1]
    assert fmt.eps == above[0] - 1
    assert fmt.has_nan == any(map(math.isnan, values))
    assert fmt.has_inf == any(map(math.isinf, values))
    assert fmt.has_zero == (0 in finite)
    assert fmt.has_negative_zero == any(v == 0 and math.copysign(1, v) < 0 for v in values)
    assert fmt.is_signed == (finite[0] < 0)


def test_tf32_has_the_range_of_float32_and_the_fraction_of_float16():
    tf32 = parse("tf32")
    assert (tf32.bits, tf32.eps) == (19, 2.0**-10)
    assert tf32.smallest_normal == parse("f32").smallest_normal
    assert tf32.max_exponent == parse("f32").max_exponent


@pytest.mark.parametrize(
    ("inner", "outer", "fits"),
    [
        ("bf16", "f32", True),
        ("f32", "bf16", False),
        ("f16", "bf16", False),
        ("e5m3", "bf16", True),
        ("e5m3", "f16", True),
        ("e8m1", "f16", False),
        ("f32", "f64", True),
        ("e8m3fnuz", "bf16", True),
        ("e4m3fnuz", "e4m3", False),
        ("e2m1", "e4m3fn", True),
        ("e8m0", "f32", True),
    ],
)
def test_fits_in(inner, outer, fits):
    assert parse(inner).fits_in(parse(outer)) is fits


@pytest.mark.parametrize(("inner", "outer"), [(a, b) for a in SMALL for b in ("e5m2", "e8m1")])
def test_fits_in_means_that_every_value_is_there(inner, outer):
    inner, outer = parse(inner), parse(outer)
    there = {outer.value_of(code) for code in range(2**outer.bits)}
    magnitudes = {abs(inner.value_of(code)) for code in range(2**inner.bits)}
    assert inner.fits_in(outer) is all(v in there for v in magnitudes if math.isfinite(v))


def test_native_is_said_by_name_and_emulated_formats_ride_on_float32():
    assert parse("bf16").dtype == ml_dtypes.bfloat16
    assert parse("bf16").carrier == ml_dtypes.bfloat16
    assert parse("f64").carrier == np.float64
    for name in ("e8m7", "e5m10", "e4m3fn", "e2m1", "tf32"):
        assert parse(name).dtype is None
        assert not parse(name).is_native
        assert parse(name).carrier == np.float32


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("f16", "float16"),
        ("e4m3fn", "float8_e4m3fn"),
        ("e8m0", "float8_e8m0fnu"),
        ("e2m1", "float4_e2m1fn"),
        ("e5m3", "uint16"),
        ("tf32", "uint32"),
        ("int8", "int8"),
        ("int4", "int4"),
        ("uint4", "uint4"),
        ("int12", "int16"),
        ("int8q6", "int8"),
        ("nf4", "uint8"),
        ("dynamic8", "uint8"),
    ],
)
def test_storage_is_the_narrowest_there_is(name, storage):
    assert parse(name).storage_dtype == np.dtype(getattr(ml_dtypes, storage, storage))


@pytest.mark.parametrize(
    ("name", "low", "high", "unit"),
    [
        ("int8", -128, 127, 1),
        ("uint8", 0, 255, 1),
        ("int4", -8, 7, 1),
        ("int2", -2, 1, 1),
        ("int8q6", -2, 127 / 64, 1 / 64),
        ("uint8q3", 0, 255 / 8, 1 / 8),
    ],
)
def test_integers_count_from_min_to_max_in_units(name, low, high, unit):
    fmt = parse(name)
    assert isinstance(fmt, IntFormat)
    assert (fmt.min, fmt.max, fmt.unit) == (low, high, unit)
    values = sorted(fmt.value_of(code) for code in range(2**fmt.bits))
    assert values == [low + unit * step for step in range(2**fmt.bits)]
    assert fmt.value_of(0) == 0


def test_a_codebook_has_the_bits_that_its_places_need():
    book = Codebook("mine", (-1.0, 0.0, 0.25, 3.0, 9.0))
    assert (book.bits, book.min, book.max, str(book)) == (3, -1.0, 9.0, "mine")
    assert [book.value_of(place) for place in range(5)] == list(book.values)
    assert Codebook("two", (0.0, 1.0)).bits == 1


def test_formats_are_values():
    assert FloatFormat("float16", 5, 10, 15) == parse("f16")
    assert len({parse("int8"), IntFormat(8), parse("e4m3fn"), parse("float8_e4m3fn")}) == 2
    with pytest.raises(AttributeError):
        parse("f16").bias = 3
