"""Derived figures against ml_dtypes' and NumPy's own, and against the standard's definitions."""

import ml_dtypes
import numpy as np
import pytest

from precis.formats import IntFormat, parse

NATIVE = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
}


@pytest.mark.parametrize(("name", "dtype"), NATIVE.items())
def test_figures_are_those_of_the_dtype(name, dtype):
    fmt, info = parse(name), ml_dtypes.finfo(dtype)
    assert fmt.max == float(info.max)
    assert fmt.eps == float(info.eps)
    assert fmt.smallest_normal == float(info.smallest_normal)
    assert fmt.smallest_subnormal == float(info.smallest_subnormal)
    assert fmt.bits == info.bits


def test_tf32_has_the_range_of_float32_and_the_fraction_of_float16():
    tf32 = parse("tf32")
    assert (tf32.bits, tf32.eps) == (19, 2.0**-10)
    assert tf32.smallest_normal == parse("f32").smallest_normal


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
    ],
)
def test_fits_in(inner, outer, fits):
    assert parse(inner).fits_in(parse(outer)) is fits


@pytest.mark.parametrize(
    ("name", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255), ("int4", -8, 7)]
)
def test_integer_ranges(name, low, high):
    fmt = parse(name)
    assert isinstance(fmt, IntFormat)
    assert (fmt.min, fmt.max) == (low, high)
