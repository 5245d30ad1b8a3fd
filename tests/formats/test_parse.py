"""Names of formats, and what is said where there is none."""

import pytest

from precis.formats import CATALOGUE, FloatFormat, IntFormat, parse, parse_float


@pytest.mark.parametrize("name", [*CATALOGUE, "e5m3", "e2m1", "e8m23", "int8", "uint4", "int2"])
def test_text_gives_the_format_back(name):
    fmt = parse(name)
    assert parse(str(fmt)) == fmt
    assert parse(fmt) is fmt


@pytest.mark.parametrize(
    ("short", "long"), [("f32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")]
)
def test_short_and_long_names_agree(short, long):
    assert parse(short) == parse(long)


def test_an_equal_grid_is_another_format():
    assert parse("e8m7") != parse("bf16")
    assert not parse("e8m7").is_native
    assert parse("bf16").is_native


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bflot16", "did you mean 'bfloat16'"),
        ("half", "float16 on some devices and bfloat16 on others"),
        ("e0m0", "2 to 8 exponent bits"),
        ("e9m2", "2 to 8 exponent bits"),
        ("e5m0", "1 to 23 mantissa bits"),
        ("int1", "2 to 32 bits"),
        ("int64", "2 to 32 bits"),
    ],
)
def test_bad_names_say_what_was_wanted(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_only_text_and_formats_are_names():
    with pytest.raises(TypeError, match="got 16"):
        parse(16)


def test_an_integer_is_no_float():
    assert isinstance(parse("int8"), IntFormat)
    with pytest.raises(ValueError, match="an integer needs a scale"):
        parse_float("int8")
    assert isinstance(parse_float("e5m3"), FloatFormat)
