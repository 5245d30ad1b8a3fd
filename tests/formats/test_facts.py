"""Derived figures against formats decoded to the last code, by us and by ml_dtypes."""

import math

import ml_dtypes
import numpy as np
import pytest

from precis.formats import BLOCK_FORMATS, CATALOGUE, Facts, FloatFormat, facts, parse

ODD = ["e5m3", "e2m2", "e4m0fn", "e3m2fnuz", "e8m7", "int3", "int8q6"]
LISTED = [name for name in [*CATALOGUE, *ODD] if parse(name).bits <= 16]
FLOATS = [name for name in LISTED if isinstance(parse(name), FloatFormat)]
STORED = [name for name in FLOATS if hasattr(ml_dtypes, name) or hasattr(np, name)]

# max, smallest normal, smallest positive, NaN codes, Inf codes.
TABLE = {
    "float16": (65504.0, 2**-14, 2**-24, 2046, 2),
    "bfloat16": (3.3895313892515355e38, 2**-126, 2**-133, 254, 2),
    "float8_e4m3fn": (448.0, 2**-6, 2**-9, 2, 0),
    "float8_e5m2": (57344.0, 2**-14, 2**-16, 6, 2),
    "float8_e4m3": (240.0, 2**-6, 2**-9, 14, 2),
    "float8_e4m3fnuz": (240.0, 2**-7, 2**-10, 1, 0),
    "float8_e5m2fnuz": (57344.0, 2**-15, 2**-17, 1, 0),
    "float6_e2m3fn": (7.5, 1.0, 1 / 8, 0, 0),
    "float6_e3m2fn": (28.0, 1 / 4, 2**-4, 0, 0),
    "float4_e2m1fn": (6.0, 1.0, 1 / 2, 0, 0),
    "float8_e8m0fnu": (2.0**127, 2**-127, 2**-127, 1, 0),
}


def dtype_of(name) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def decoded(name) -> np.ndarray:
    """The value of every code, from ml_dtypes where it has the format, else from the spec."""
    fmt = parse(name)
    count = len(fmt.values) if hasattr(fmt, "values") else 1 << fmt.bits
    codes = np.arange(count)
    if name in STORED:
        dtype = dtype_of(name)
        with np.errstate(invalid="ignore"):  # signaling NaNs
            return codes.astype(f"uint{8 * dtype.itemsize}").view(dtype).astype(np.float64)
    return np.array([fmt.value_of(int(code)) for code in codes])


@pytest.mark.parametrize("name", TABLE)
def test_the_known_table(name):
    values, told = decoded(name), facts(name)
    assert name in STORED
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    largest, normal, smallest, nan_codes, inf_codes = TABLE[name]
    assert (finite.max(), positive.min()) == (largest, smallest)
    assert (np.isnan(values).sum(), np.isinf(values).sum()) == (nan_codes, inf_codes)
    assert float(ml_dtypes.finfo(dtype_of(name)).smallest_normal) == normal
    assert (told.max, told.smallest_normal, told.smallest_positive) == (largest, normal, smallest)
    assert (told.nan_codes, told.inf_codes) == (nan_codes, inf_codes)


def test_e8m0_has_no_zero_and_the_others_do():
    assert 0 not in decoded("float8_e8m0fnu")
    assert all(0 in decoded(name) for name in TABLE if name != "float8_e8m0fnu")


@pytest.mark.parametrize("name", LISTED)
def test_figures_are_those_of_the_decoded_format(name):
    values, told = decoded(name), facts(name)
    finite = np.unique(values[np.isfinite(values)])
    positive = finite[finite > 0]
    assert told.max == finite.max()
    assert told.min == finite.min()
    assert told.smallest_positive == positive.min()
    assert told.finite_values == len(finite)
    assert told.nan_codes == np.isnan(values).sum()
    assert told.inf_codes == np.isinf(values).sum()
    assert told.decades == pytest.approx(math.log10(positive.max() / positive.min()), abs=1e-12)


@pytest.mark.parametrize("name", FLOATS)
def test_float_figures_are_those_of_the_decoded_format(name):
    values, told = decoded(name), facts(name)
    finite = np.unique(values[np.isfinite(values)])
    positive = finite[finite > 0]
    if told.max >= 1 + told.eps:
        assert positive[np.searchsorted(positive, 1.0, side="right")] - 1.0 == told.eps
    # From the smallest normal number on, a binade holds 2^mantissa_bits numbers; below, fewer.
    first = told.smallest_normal
    assert ((positive >= first) & (positive < 2 * first)).sum() == 2**told.mantissa_bits
    below = positive[positive < first]
    assert len(below) == (2**told.mantissa_bits - 1 if told.smallest_subnormal else 0)
    assert (told.smallest_subnormal or first) == positive[0]
    zeros = 1 + (np.signbit(values) & (values == 0)).sum() if 0 in finite else 0
    assert told.finite_values + told.nan_codes + told.inf_codes + max(zeros - 1, 0) == 2**told.bits


@pytest.mark.parametrize(
    ("name", "bits_per_value", "block", "scale"),
    [
        ("mxfp8_e4m3", 8.25, 32, "blocks of 32 by e8m0"),
        ("mxfp4", 4.25, 32, "blocks of 32 by e8m0"),
        ("nvfp4", 4.5, 16, "blocks of 16 by e4m3fn, the tensor by f32"),
        ("nf4@block64", 4.5, 64, "blocks of 64 by f32"),
        ("int8@channel", 8, None, "each channel by f32"),
        ("int8@tensor", 8, None, "the tensor by f32"),
    ],
)
def test_scaled_formats(name, bits_per_value, block, scale):
    told = facts(name)
    element = facts(parse(name).grid)
    assert (told.bits_per_value, told.block, told.scale) == (bits_per_value, block, scale)
    assert (told.name, told.kind) == (name, "scaled")
    assert (told.max, told.finite_values, told.bits) == (
        element.max,
        element.finite_values,
        element.bits,
    )


def test_every_block_format_has_facts():
    assert all(isinstance(facts(name), Facts) for name in BLOCK_FORMATS)


def test_a_rounded_format_has_the_figures_of_its_grid_under_its_own_name():
    told = facts("e5m2(toward_zero)")
    assert (told.name, told.max) == ("e5m2(toward_zero)", 57344.0)


def test_the_two_e4m3_name_each_other():
    assert "240" in facts("e4m3").note
    assert "448" in facts("e4m3").note
    assert "240" in facts("e4m3fn").note
    assert "448" in facts("e4m3fn").note
    assert (facts("e4m3").max, facts("e4m3fn").max) == (240, 448)


def test_native_and_carried():
    assert (facts("bf16").is_native, facts("e8m7").is_native) == (True, False)
    assert (facts("tf32").carrier, facts("tf32").storage_dtype) == (np.float32, np.uint32)
    assert facts("e4m3fn").storage_dtype == ml_dtypes.float8_e4m3fn


def test_what_makes_no_sense_is_none():
    told = facts("int8")
    assert (told.exponent_bits, told.eps, told.smallest_normal, told.carrier) == (None,) * 4
    assert facts("e8m0").smallest_subnormal is None


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="did you mean 'bf16'"):
        facts("bf17")
