"""Exact rounding on the host against ml_dtypes, NumPy and Python's own parser, and the kernel."""

import itertools
import math
from fractions import Fraction

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from precis.formats import (
    CATALOGUE,
    IntFormat,
    encode,
    nearest_code,
    neighbors,
    parse,
    parse_grid,
    value_of,
)
from tests.formats import oracle

# The formats that ml_dtypes or NumPy stores, of which all codes can be listed.
STORED = {
    name: np.dtype(getattr(ml_dtypes, name, None) or name)
    for name, fmt in CATALOGUE.items()
    if name.startswith(("float", "bfloat")) and fmt.bits <= 16
}
LISTED = [
    name for name in [*CATALOGUE, "e2m2", "e4m0fn", "uint3", "int8q6"] if parse(name).bits <= 8
]


def all_codes(name):
    return np.arange(1 << parse(name).bits)


def uint_of(dtype):
    return np.dtype(f"uint{8 * dtype.itemsize}")


def same(got, want):
    """Equal with the sign of zero, any NaN like any other."""
    got, want = np.float64(got), np.float64(want)
    return (np.isnan(got) & np.isnan(want)) | (got.view(np.uint64) == want.view(np.uint64))


def in_doubt(name):
    """Values, midpoints and their neighbors in float32, thinned out evenly for wide formats."""
    found = np.unique(oracle.boundaries(parse_grid(name)))
    return [float(x) for x in found[:: max(1, len(found) // 400)]]


@pytest.mark.parametrize("name", STORED)
def test_every_code_has_the_value_of_the_stored_format(name):
    dtype = STORED[name]
    codes = all_codes(name)
    with np.errstate(invalid="ignore"):  # signaling NaNs
        want = codes.astype(uint_of(dtype)).view(dtype).astype(np.float64)
    got = [float(value_of(int(code), name)) for code in codes]
    assert same(got, want).all()


@pytest.mark.parametrize("name", LISTED)
def test_the_neighbors_of_a_number_are_itself_and_of_a_midpoint_those_beside(name):
    values = sorted(
        {
            value
            for code in range(len(getattr(parse(name), "values", all_codes(name))))
            if not isinstance(value := value_of(code, name), float)
        }
    )
    for value in values:
        below, above = neighbors(value, name)
        assert below == above
        assert value_of(below, name) == value
    for low, high in itertools.pairwise(values):
        around = neighbors((low + high) / 2, name)
        assert [Fraction(value_of(code, name)) for code in around] == [low, high]
    below, above = neighbors(values[-1] + 1, name)
    assert (value_of(below, name), above) == (values[-1], None)
    below, above = neighbors(values[0] - 1, name)
    assert (below, value_of(above, name)) == (None, values[0])


def test_neighbors_in_float64_are_the_next_ones():
    for text in ("0.1", "1e-320", "-3.3e307", "123456789.1"):
        value, nearest = Fraction(text), float(text)
        codes = neighbors(value, "f64")
        low, high = (float(value_of(code, "f64")) for code in codes)
        assert low < value < high
        assert math.nextafter(low, math.inf) == high
        assert nearest in (low, high)


def test_the_zero_above_a_negative_value_is_negative():
    assert neighbors(Fraction(-1, 10**9), "f16") == (0x8001, 0x8000)
    assert neighbors(-0.0, "f16") == (0x8000, 0x8000)
    assert neighbors(Fraction(-1, 10**9), "e4m3fnuz") == (0x81, 0x00)


@pytest.mark.parametrize("name", STORED)
def test_nearest_is_what_the_stored_format_takes(name):
    dtype = STORED[name]
    # ml_dtypes rounds what it takes from float64 twice for some formats: float32 is exact.
    numbers = in_doubt(name)
    with np.errstate(over="ignore", invalid="ignore"):
        want = np.float32(numbers).astype(dtype).astype(np.float64)
    got = [float(value_of(nearest_code(x, name), name)) for x in numbers]
    wrong = [(x, g, w) for x, g, w in zip(numbers, got, want, strict=True) if not same(g, w)]
    assert wrong == []


def test_float64_is_what_python_reads():
    for text in ("0.1", "1e-320", "1.7976931348623158e308", "-2.5e-324", "2.4e-324", "7e22"):
        assert value_of(nearest_code(Fraction(text), "f64"), "f64") == float(text)
    assert value_of(nearest_code(Fraction(10) ** 400, "f64"), "f64") == math.inf


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("e4m3fn", {"rounding": "toward_zero"}),
        ("e5m2", {"rounding": "up", "overflow": "nan"}),
        ("e5m2fnuz", {"rounding": "nearest_away", "overflow": "saturate"}),
        ("e2m1", {"rounding": "down", "subnormals": "flush"}),
        ("e8m0", {}),
        ("int8q6", {"rounding": "nearest_away"}),
        ("uint4", {"rounding": "up"}),
        ("nf4", {"rounding": "nearest_away"}),
        ("dynamic8", {}),
    ],
)
def test_codes_are_those_of_the_kernel(text, options):
    numbers = in_doubt(text)
    options_text = ",".join(f"{key}={value}" for key, value in options.items())
    options_text = options_text.replace("rounding=", "")
    fmt = f"{text}({options_text})" if options else text
    want = np.asarray(encode(jnp.float32(numbers), fmt))
    got = [nearest_code(x, text, **options) for x in numbers]
    wrong = [(x, g, w) for x, g, w in zip(numbers, got, want, strict=True) if g != w]
    assert wrong == []


@pytest.mark.parametrize(
    ("value", "fmt", "options", "want"),
    [
        (65519.99, "f16", {}, 0x7BFF),
        (65520.0, "f16", {}, 0x7C00),
        (65520.0, "f16", {"rounding": "toward_zero"}, 0x7BFF),
        (1e9, "f16", {"rounding": "down"}, 0x7BFF),
        (-1e9, "f16", {"rounding": "down"}, 0xFC00),
        (math.inf, "f16", {"rounding": "toward_zero"}, 0x7C00),
        (math.inf, "f16", {"overflow": "saturate"}, 0x7BFF),
        (math.inf, "f16", {"overflow": "nan"}, 0x7C00),
        (464.0, "e4m3fn", {}, 0x7E),
        (464.1, "e4m3fn", {}, 0x7F),
        (-464.1, "e4m3fn", {}, 0xFF),
        (464.1, "e4m3fn", {"overflow": "saturate"}, 0x7E),
        (1e9, "e2m1", {}, 0x7),
        (math.nan, "e2m1", {}, 0x8),
        (math.nan, "f16", {}, 0x7E00),
        (math.nan, "e4m3fnuz", {}, 0x80),
        (-0.0, "e4m3fnuz", {}, 0x00),
        (-0.0, "f16", {}, 0x8000),
        (2**-25, "f16", {}, 0x0000),
        (2**-25, "f16", {"rounding": "nearest_away"}, 0x0001),
        (2**-15, "f16", {"subnormals": "flush"}, 0x0000),
        (3.0, "e8m0", {}, 0x81),
        (1e-60, "e8m0", {}, 0x00),
        (-1.0, "e8m0", {}, 0xFF),
        (0.0, "e8m0", {}, 0xFF),
        (0.5, "int8", {}, 0x00),
        (1.5, "int8", {}, 0x02),
        (-1e9, "int8", {}, 0x80),
        (-3.0, "uint8", {}, 0x00),
        (math.nan, "int8", {}, 0x00),
    ],
)
def test_ends_and_ties(value, fmt, options, want):
    assert nearest_code(value, fmt, **options) == want


def test_a_tie_in_a_codebook_goes_to_the_smaller_value():
    values = parse("nf4").values
    for place, (low, high) in enumerate(itertools.pairwise(values)):
        middle = (Fraction(low) + Fraction(high)) / 2
        assert nearest_code(middle, "nf4") == place
        away = place + (middle >= 0)
        assert nearest_code(middle, "nf4", "nearest_away") == away


def test_wide_integers_are_exact():
    assert nearest_code(Fraction(2**31) - Fraction(3, 2), IntFormat(32)) == 2**31 - 2
    assert value_of(0x80000001, "int32") == 1 - 2**31


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: nearest_code(1.0, "f16", "stochastic"), "no single answer"),
        (lambda: nearest_code(1.0, "f16", "nearst_even"), "did you mean 'nearest_even'"),
        (lambda: nearest_code(1.0, "e4m3fn", overflow="inf"), "has no inf"),
        (lambda: nearest_code(1.0, "mxfp4"), "without scale"),
        (lambda: neighbors(math.inf, "f16"), "finite"),
        (lambda: value_of(65536, "f16"), "from 0 to 65535"),
        (lambda: value_of(-1, "nf4"), "from 0 to 15"),
    ],
)
def test_errors_say_what_is_wanted(call, said):
    with pytest.raises(ValueError, match=said):
        call()
