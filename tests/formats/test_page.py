"""`docs/formats.md` says nothing that the formats do not."""

import io
import re
from fractions import Fraction
from pathlib import Path

import pytest
from rich.console import Console

from precis.cli.format_reading import print_readings
from precis.formats import facts, parse, parse_grid, read_number, value_of
from precis.formats.exact import landing
from precis.formats.ladder import ends, number_at
from precis.formats.scaled import Rounded
from precis.report.powers import both, decimal, figure

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
NAMES = {
    "FP32": "f32",
    "TF32": "tf32",
    "BF16": "bf16",
    "FP16": "f16",
    "FP8 E5M2": "e5m2",
    "FP8 E4M3": "e4m3fn",
    "INT8": "int8",
}


def format_row(name):
    told = facts(NAMES[name])
    fields = f"1, {told.exponent_bits}, {told.mantissa_bits}" if told.eps else "–"
    return [
        name,
        f"`{told.short_name}`",
        str(told.bits),
        fields,
        figure(told.max),
        figure(told.smallest_normal),
        figure(told.smallest_positive),
        figure(told.eps),
        f"{told.decades:.1f}",
    ]


def fp16_rows():
    f16 = parse_grid("f16")
    told = facts(f16)
    half = Fraction(told.smallest_positive) / 2
    last = ends(f16)[1]
    edge = (number_at(last, f16) + number_at(last + 1, f16)) / 2
    # A hair above and below is enough to tell "at or below" from "below".
    hair = Fraction(1, 10**9)
    assert value_of(landing(half, Rounded(f16)).code, f16) == 0
    assert value_of(landing(half * (1 + hair), Rounded(f16)).code, f16) == told.smallest_positive
    assert landing(edge, Rounded(f16)).is_overflow
    assert not landing(edge * (1 - hair), Rounded(f16)).is_overflow
    return [
        ["largest", both(told.max)],
        ["most negative", both(told.min)],
        ["smallest normal", both(told.smallest_normal)],
        ["smallest positive, a subnormal", both(told.smallest_subnormal)],
        ["rounds to zero", f"at or below {both(half)}"],
        ["becomes infinite", f"from {both(edge)}"],
    ]


def readings():
    file = io.StringIO()
    console = Console(file=file, width=80)
    print_readings(parse("fp16"), ["0.1", "70000", "1e-8"], console)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def rows_of(page):
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def figures_of(text):
    """Powers of two, decimals, exponents and numbers of three digits or more."""
    found = re.findall(r"(?<![\w.@])−?\d[\d.]*(?:\^-?\d+|e-?\d+)?%?", text)
    return {token.rstrip(".") for token in found if not re.fullmatch(r"\d{1,2}\.?", token)}


@pytest.mark.parametrize("name", NAMES)
def test_every_format_has_its_row(name):
    assert format_row(name) in rows_of(PAGE)


def test_the_ends_of_fp16():
    assert [row for row in rows_of(PAGE) if len(row) == 2][2:] == fp16_rows()


def test_the_output_is_what_the_command_prints():
    block = re.search(r"```\n\$ precis formats fp16 0\.1 70000 1e-8\n(.*?)\n```", PAGE, re.DOTALL)
    assert block[1].splitlines() == readings()


def test_no_figure_in_the_text_is_made_up():
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    text = re.sub(r"FP\d+|INT8|`[^`]*`", "", text)
    bf16, e4m3fn, int8 = facts("bf16"), facts("e4m3fn"), facts("int8")
    computed = {
        figure(bf16.max),
        figure(facts("f32").max),
        f"{figure(bf16.smallest_normal)}",
        f"{decimal(100 * bf16.eps, 3)}%",
        figure(e4m3fn.max),
        figure(facts("e4m3").max),
        figure(facts("e5m2").max),
        figure(int8.min),
        figure(int8.max),
        figure(Fraction(1, 2)),
        *(f"{facts(name).bits_per_value:g}" for name in ("mxfp8_e4m3", "mxfp4", "nvfp4")),
        *(decimal(number_at(rung, parse_grid("e2m1")), 3) for rung in range(8)),
        decimal(2 ** (bf16.mantissa_bits + 1), 3),
    }
    assert bf16.smallest_normal == facts("f32").smallest_normal
    assert figures_of(text) <= computed
    assert len(figures_of(text)) > 12


@pytest.mark.parametrize("figure", ["65503", "2^-25", "−128", "0.79%", "3.38e38", "5.96e-8", "8.5"])
def test_a_made_up_figure_would_be_noticed(figure):
    assert figures_of(f"It ends at {figure}, of 16 bits.") == {figure}


def test_small_counts_in_the_text():
    f32, tf32, bf16, f16 = (facts(name) for name in ("f32", "tf32", "bf16", "f16"))
    e4m3fn, e5m2 = facts("e4m3fn"), facts("e5m2")
    for words in (
        f"{f32.exponent_bits} exponent bits, {f32.mantissa_bits} fraction bits",
        f"keeps all {bf16.exponent_bits} exponent bits of FP32",
        f"with {bf16.mantissa_bits} fraction bits",
        f"the {tf32.mantissa_bits} fraction bits of FP16: {tf32.bits} bits",
        f"arrays stay FP32, of {f32.bits} bits a number",
        f"keeps {tf32.mantissa_bits} of the {f32.mantissa_bits} fraction bits of its operands",
        f"`e4m3fn` has {e4m3fn.mantissa_bits} fraction bits and ends at {figure(e4m3fn.max)}",
        f"`e5m2` has {e5m2.mantissa_bits}, and {e5m2.exponent_bits} exponent bits as FP16 has",
        f"each block of {facts('mxfp4').block} numbers an {parse('e8m0').bits}-bit power of two",
        f"NVFP4 takes blocks of {facts('nvfp4').block}",
        "numbers are 0, 0.5, 1, 1.5, 2, 3, 4 and 6",
    ):
        assert words in PAGE, words
    assert tf32.exponent_bits == bf16.exponent_bits == f32.exponent_bits
    assert tf32.mantissa_bits == f16.mantissa_bits
    assert e5m2.exponent_bits == f16.exponent_bits


def test_what_the_text_says_of_single_numbers():
    assert read_number("257", "bf16").nearest == 256
    assert read_number("1.001", "bf16").nearest == 1
    assert read_number("1e300", "e4m3fn").nearest != read_number("1e300", "e4m3fn").nearest  # NaN
    assert read_number("1e300", "e4m3fn(overflow=saturate)").nearest == 448
    assert read_number("1e300", "e5m2").nearest == float("inf")
    assert (facts("e4m3fn").nan_codes, facts("e4m3fn").inf_codes) == (2, 0)
    assert read_number("0.5", "int8").nearest == 0
    assert read_number("0.501", "int8").nearest == 1
