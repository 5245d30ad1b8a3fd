"""What a number becomes: text taken at its word, fields that spell the code, errors that add up."""

import math
from fractions import Fraction

import pytest

from precis.formats import CATALOGUE, parse, read_number, value_of
from precis.formats.reading import parse_number

NUMBERS = ["0.1", "-0.1", "3", "1e-8", "-70000", "2^-24", "0", "-0", "inf", "-inf", "nan", "1e300"]


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_reading_agrees_with_itself(number, name):
    reading = read_number(number, name)
    grid = reading.grid
    bits = reading.sign + reading.exponent + reading.fraction
    assert len(bits) == grid.bits
    assert int(bits, 2) == reading.code
    assert repr(value_of(reading.code, grid)) == repr(reading.nearest)
    if reading.error is None:
        assert reading.relative_error is None
        assert not (math.isfinite(reading.value) and math.isfinite(reading.nearest))
    else:
        assert Fraction(reading.value) + reading.error == reading.nearest
        assert (reading.error == 0) == (Fraction(reading.value) == reading.nearest)
    if reading.status == "exact":
        assert reading.nearest == reading.value
    if reading.status in ("rounded", "subnormal") and reading.ulp:
        assert abs(reading.error) <= reading.ulp


@pytest.mark.parametrize(
    ("number", "fmt", "status", "nearest"),
    [
        ("1", "f16", "exact", 1),
        ("0.1", "f16", "rounded", 0.0999755859375),
        ("2^-24", "f16", "subnormal", 2.0**-24),
        ("4e-8", "f16", "subnormal", 2.0**-24),
        ("2^-25", "f16", "underflowed", 0),
        ("1e-8", "f16", "underflowed", 0),
        ("70000", "f16", "overflowed", math.inf),
        ("65519", "f16", "rounded", 65504),
        ("inf", "f16", "exact", math.inf),
        ("inf", "e2m1", "overflowed", 6),
        ("70000", "e2m1", "overflowed", 6),
        ("0.4", "int8", "underflowed", 0),
        ("127.5", "int8", "overflowed", 127),
        ("127.4", "int8", "rounded", 127),
        ("-1", "uint8", "overflowed", 0),
        ("-5", "nf4", "overflowed", -1),
        ("1e-60", "e8m0", "underflowed", 2.0**-127),
        ("6e-39", "e8m0", "rounded", 2.0**-126),
        ("0.001", "e4m3fn(subnormals=flush)", "underflowed", 0),
        ("500", "e4m3fn(overflow=saturate)", "overflowed", 448),
        ("0.3", "e4m3fn(up)", "rounded", 0.3125),
    ],
)
def test_status(number, fmt, status, nearest):
    reading = read_number(number, fmt)
    assert (reading.status, reading.nearest) == (status, nearest)


@pytest.mark.parametrize(
    ("number", "fmt"), [("nan", "f16"), ("nan", "e2m1"), ("-1", "e8m0"), ("0", "e8m0")]
)
def test_not_a_number(number, fmt):
    assert read_number(number, fmt).status == "not a number"


@pytest.mark.parametrize(
    ("number", "fmt", "ulp"),
    [
        ("1", "f16", "2^-10"),
        ("0.1", "f16", "2^-14"),
        ("0", "f16", "2^-24"),
        ("65504", "f16", "32"),
        ("1e-320", "f64", "2^-1074"),
        ("4", "e8m0", "4"),
        ("100", "int8", "1"),
        ("-2", "int8q6", "2^-6"),
    ],
)
def test_ulp(number, fmt, ulp):
    assert read_number(number, fmt).ulp == parse_number(ulp)


def test_text_is_taken_at_its_word():
    assert parse_number("0.1") == Fraction(1, 10)
    assert read_number("0.1", "f64").error == Fraction(0.1) - Fraction(1, 10) != 0
    assert read_number(0.1, "f64").error == 0
    assert parse_number("−2^-3") == parse_number("-0.125") == Fraction(-1, 8)
    assert repr(parse_number("-0.00")) == "-0.0"
    assert repr(parse_number("-0e5")) == "-0.0"


def test_fields():
    told = [read_number("-1", fmt) for fmt in ("e4m3fn", "int8", "uint4", "nf4")]
    assert [(r.sign, r.exponent, r.fraction) for r in told] == [
        ("1", "0111", "000"),
        ("1", "", "1111111"),
        ("", "", "0000"),
        ("", "", "0000"),
    ]
    two = read_number("2", "e8m0")
    assert (two.sign, two.exponent, two.fraction) == ("", "10000000", "")


@pytest.mark.parametrize(
    ("number", "fmt", "said"),
    [
        ("ten", "f16", "a number is wanted"),
        ("1/3", "f16", "a number is wanted"),
        ("1e999999999", "f16", "beyond every format"),
        ("2^-999999999", "f16", "beyond every format"),
        ("1", "mxfp4", "read it in e2m1"),
        ("1", "e5m2(stochastic)", "no single answer"),
        ("1", "fp17", "did you mean"),
    ],
)
def test_errors_say_what_is_wanted(number, fmt, said):
    with pytest.raises(ValueError, match=said):
        read_number(number, fmt)


def test_parsed_formats_and_their_names_are_the_same():
    assert read_number("0.1", parse("bf16")) == read_number("0.1", "bfloat16")
