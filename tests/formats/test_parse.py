"""Names of formats, and what is said where there is none."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from precis.formats import (
    BLOCK_FORMATS,
    CATALOGUE,
    FloatFormat,
    IntFormat,
    Rounded,
    ScaledFormat,
    parse,
    parse_float,
    parse_grid,
)

GRIDS = [
    *CATALOGUE,
    *("e5m3", "e2m1", "e8m23", "e5m0fn", "e8m3fnuz", "int12", "uint7", "int8q6", "uint3q1"),
]


@pytest.mark.world
@pytest.mark.parametrize("name", [*GRIDS, *BLOCK_FORMATS])
def test_text_gives_the_format_back(name):
    fmt = parse(name)
    assert parse(str(fmt)) == fmt
    assert parse(fmt) is fmt
    assert parse(f" {name.upper()} ") == fmt


@given(
    st.sampled_from(["bf16", "e4m3fn", "e2m1", "int8", "nf4", "e5m2"]),
    st.sampled_from(["", "toward_zero", "stochastic", "nearest_away"]),
    st.sampled_from(["", "overflow=saturate"]),
    st.sampled_from(["", "subnormals=flush"]),
    st.sampled_from(
        ["", "@tensor", "@channel", "@block32", "@block16:e4m3fn", "@block16:e4m3fn@tensor"]
    ),
)
def test_every_text_of_the_grammar_comes_back(name, rounding, overflow, subnormals, shared):
    assume(not (name == "bf16" and shared.endswith("e4m3fn@tensor")))  # out of float32's range
    options = ",".join(filter(None, [rounding, overflow, subnormals]))
    text = f"{name}({options}){shared}" if options else name + shared
    fmt = parse(text)
    assert parse(str(fmt)) == fmt
    assert parse(f"{name}{shared}({options})" if options else text) == fmt
    assert isinstance(fmt, ScaledFormat) == bool(shared)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("f32", "float32"),
        ("full", "float32"),
        ("bf16", "bfloat16"),
        ("fp16", "float16"),
        ("e4m3fn", "float8_e4m3fn"),
        ("e2m1", "float4_e2m1fn"),
        ("e2m1fn", "float4_e2m1fn"),
        ("e3m2", "float6_e3m2fn"),
        ("e8m0", "float8_e8m0fnu"),
        ("mxfp8_e4m3", "e4m3fn@block32:e8m0"),
        ("mxint8", "int8q6@block32:e8m0"),
        ("nvfp4", "e2m1@block16:e4m3fn@tensor"),
        ("int8@block32:f32", "int8@block32"),
    ],
)
def test_short_and_long_names_agree(short, long):
    assert parse(short) == parse(long)


def test_e4m3_is_the_ieee_like_one_and_e4m3fn_ocps():
    assert (parse("e4m3").max, parse("e4m3fn").max) == (240, 448)


def test_an_equal_grid_is_another_format():
    assert parse("e8m7") != parse("bf16")
    assert not parse("e8m7").is_native
    assert parse("bf16").is_native


@pytest.mark.parametrize(
    ("name", "bias", "largest"),
    [("e5m3", 15, 61440), ("e5m3fn", 15, 114688), ("e5m3fnuz", 16, 61440), ("e5m0fn", 15, 32768)],
)
def test_any_exmy_is_a_format(name, bias, largest):
    fmt = parse(name)
    assert isinstance(fmt, FloatFormat)
    assert (fmt.bias, fmt.max) == (bias, largest)


def test_options_say_how_values_come_onto_the_grid():
    how = parse("e5m2(stochastic,overflow=saturate,subnormals=flush)")
    assert how == Rounded(parse("e5m2"), "stochastic", "saturate", "flush")
    assert parse("e5m2(rounding=stochastic)") == Rounded(parse("e5m2"), "stochastic")
    assert parse("e5m2(nearest_even)") == parse("e5m2")
    assert parse("mxfp4(scale=rceil)").rule == "rceil"
    assert str(parse("mxfp4(scale=rceil)")) == "mxfp4(scale=rceil)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bflot16", "did you mean 'bfloat16'"),
        ("e4m3fm", "did you mean 'e4m3fn'"),
        ("mxfp8", "did you mean 'mxfp"),
        ("", "no number format is called ''"),
        ("half", "float16 on some devices and bfloat16 on others"),
        ("e0m0", "2 to 8 exponent bits"),
        ("e9m2", "2 to 8 exponent bits"),
        ("e5m24", "0 to 23 mantissa bits"),
        ("e5m0", "no code for NaN.*write 'e5m0fn' or 'e5m0fnuz'"),
        ("e8m23fnuz", "has values that float32 lacks"),
        ("int1", "2 to 32 bits"),
        ("int64", "2 to 32 bits"),
        ("int8q8", "more bits behind the point than bits"),
        ("int8@block0", "a positive number of values, got '0'"),
        ("int8@block-4", "a positive number of values, got '-4'"),
        ("int8@block", "a positive number of values, got ''"),
        ("int8@blok32", "'tensor', 'channel' or 'block32'.*got 'blok32'"),
        ("int8@block32:", "no number format is called ''"),
        ("int8@block32:int8", "an integer needs a scale"),
        ("int8@block32:f64", "a scale is float32 or narrower, got f64"),
        ("int8@block32(scale=ceil)", "goes with e8m0 scales"),
        ("nf4@block64:e8m0", "a codebook wants float scales"),
        ("e8m0@block32", "cannot be scaled"),
        ("int8@block16@tensor", "goes with narrow float scales"),
        ("bf16(scale=ceil)", "only a scaled format"),
        ("bf16(round_up)", "none of nearest_even"),
        ("bf16(overflow=clamp)", "none of ieee, saturate, inf, nan"),
        ("bf16(overflw=nan)", "no option is called 'overflw'; did you mean 'overflow'"),
        ("bf16(up,down)", "'rounding' is given twice"),
        ("int8(up)@tensor(down)", "'rounding' is said twice"),
        ("e4m3fn(overflow=inf)", "e4m3fn has no inf; try 'saturate'"),
        ("e2m1(overflow=nan)", "e2m1 has no nan; try 'saturate'"),
        ("int8(overflow=nan)", "int8 has no nan"),
    ],
)
def test_bad_names_say_what_was_wanted(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("thing", [16, None, 0.5, ["bf16"]])
def test_only_text_and_formats_are_names(thing):
    with pytest.raises(TypeError, match="a format or its name is wanted, got"):
        parse(thing)


@pytest.mark.parametrize("name", ["int8", "nf4", "mxfp4", "bf16(up)", "int8@tensor"])
def test_only_a_plain_float_is_one(name):
    with pytest.raises(ValueError, match="a floating-point format is wanted here, got"):
        parse_float(name)


def test_an_integer_is_no_float():
    assert isinstance(parse("int8"), IntFormat)
    with pytest.raises(ValueError, match="an integer needs a scale"):
        parse_float("int8")
    assert isinstance(parse_float("e5m3"), FloatFormat)


@pytest.mark.parametrize("name", ["mxfp4", "bf16(up)"])
def test_a_grid_has_no_options(name):
    with pytest.raises(ValueError, match="a format without scale or options is wanted here, got"):
        parse_grid(name)
    assert parse_grid("nf4").bits == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int32@channel", "scaled values are float32"),
        ("e2m1@block16:bf16@tensor", "no room in float32"),
    ],
)
def test_scaled_formats_that_float32_cannot_carry(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)
