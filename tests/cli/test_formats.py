"""What `precis formats` says, at eighty columns and without jax."""

import os
import resource
import subprocess
import sys

import pytest

from precis.cli import run_command
from precis.formats import BLOCK_FORMATS, CATALOGUE

# Runs the command and then tells whether jax came in.
CHECK = """
import sys
from precis.cli import run_command
code = run_command(sys.argv[1:])
print("jax" if "jax" in sys.modules else "no jax")
sys.exit(code)
"""


@pytest.fixture
def formats(monkeypatch, capsys):
    """Runs the command in this process: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        code = run_command(["formats", *map(str, arguments)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def readings(output):
    """The text of each number's headline, and its rows by name."""
    found = []
    for line in output.splitlines():
        if line and not line.startswith(" "):
            found.append((line, {}))
        elif line.strip():
            name, _, rest = line.strip().partition("  ")
            found[-1][1][name] = rest.strip()
    return found


def test_every_named_format_has_a_line_that_is_not_wrapped(formats):
    code, output, _ = formats()
    assert code == 0
    lines = output.splitlines()
    assert max(map(len, lines)) <= 80
    firsts = [line.split()[0] for line in lines if line.strip()]
    for name in [*map(str, CATALOGUE.values()), *BLOCK_FORMATS]:
        assert firsts.count(name) == 1, name
    row = next(line.split() for line in lines if line.startswith(" f16 "))
    assert row == "f16 16 1-5-10 65504 2^-14 2^-24 2^-10 yes yes".split()


def test_without_jax_and_without_waiting():
    arguments = [sys.executable, "-c", CHECK, "formats", "fp16", "0.1", "-70000"]
    subprocess.run(arguments, capture_output=True, check=True)  # Bytecode is compiled once.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(arguments, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.stdout.splitlines()[-1] == "no jax"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("name", [*CATALOGUE, *BLOCK_FORMATS, "int8@channel", "e5m2(down)"])
def test_every_format_has_a_card(formats, name):
    code, output, _ = formats(name)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    assert output.splitlines()[0].split()[0] == name
    assert "max" in output


def test_a_card_draws_the_bits_and_tells_the_ends(formats):
    _, output, _ = formats("fp16")
    lines = [line.strip() for line in output.splitlines()]
    assert lines[:4] == [
        "float16  f16, fp16",
        "┌─┬─────┬──────────┐",
        "│s│eeeee│ffffffffff│",
        "└─┴─────┴──────────┘",
    ]
    rows = [line.split(maxsplit=2) for line in lines]
    assert ["smallest", "normal", "2^-14 ≈ 6.1e-5"] in rows
    assert ["smallest", "subnormal", "2^-24 ≈ 5.96e-8"] in rows
    assert ["rounds", "to", "zero         at or below 2^-25 ≈ 2.98e-8"] in rows
    assert ["overflows", "from", "65520, to inf"] in rows


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("e4m3", ["240", "e4m3fn", "448", "from 248, to inf"]),
        ("e4m3fn", ["448", "e4m3 ", "240", "above 464, to NaN"]),
        ("e2m1", ["0  0.5  1  1.5  2  3  4  6", "from 7, to 6"]),
        ("nvfp4", ["element e2m1", "scale e4m3fn, one for 16 values", "4.5", "tensor by f32"]),
        ("nf4", ["−0.6962", "place in a list of 16"]),
        ("e5m2(overflow=saturate)", ["from 61440, to 57344"]),
    ],
)
def test_a_card_says_what_is_its_own(formats, name, said):
    _, output, _ = formats(name)
    told = " ".join(output.split())
    for words in said:
        assert " ".join(words.split()) in told


def test_numbers_are_read(formats):
    code, output, _ = formats("fp16", "0.1", "70000", "1e-8", "2^-24")
    assert code == 0
    told = readings(output)
    assert [line for line, _ in told] == [
        "0.1  in f16  rounded",
        "70000  in f16  overflowed to inf",
        "1e-8  in f16  underflowed to 0",
        "2^-24  in f16  subnormal",
    ]
    tenth = told[0][1]
    assert "│0│01011│1001100110│" in tenth
    assert tenth["nearest"] == "0.0999755859375"
    assert tenth["which is"] == "(1 + 614/1024) × 2^-4"
    assert tenth["error"] == "−2.441e-5 (relative −2.44e-4, −0.4 ulp)"
    assert told[3][1]["which is"] == "1/1024 × 2^-14"
    assert tenth["ulp"] == "2^-14 ≈ 6.1e-5"


@pytest.mark.parametrize("number", ["-0.1", "-70000", "-1e-8", "-.5", "-2^-24", "-inf", "-0"])
def test_a_negative_number_is_no_option(formats, number, tmp_path):
    picture = tmp_path / "a.svg"
    for arguments in (
        ["fp16", number],
        ["fp16", "1", number],
        ["fp16", number, "--picture", picture],
    ):
        code, output, _ = formats(*arguments)
        assert code == 0
        assert f"−{number[1:]}  in f16" in output
        assert "│1│" in output


def test_a_scaled_format_reads_at_a_scale_of_one_and_saturates(formats):
    _, output, _ = formats("nvfp4", "1000")
    assert output.splitlines()[0] == "nvfp4 at a scale of 1; a tensor would be scaled first"
    assert "1000  in e2m1  overflowed to 6" in output


def test_64_bits_fit_the_terminal(formats):
    _, output, _ = formats("f64", "0.1", "1e-320", "1e400")
    assert max(map(len, output.splitlines())) <= 80
    assert readings(output)[0][1]["code"] == "0x3fb999999999999a"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bf17"], "did you mean 'bf16'"),
        (["half"], "'f16' or 'bf16'"),
        (["fp16", "abc"], "a number is wanted"),
        (["fp16", "1", "abc"], "a number is wanted"),
        (["e5m2(stochastic)", "1"], "no single answer"),
        (["--picture", "a.pdf"], "--picture writes .svg or .png"),
        (["fp16", "1", "--picture", "a"], "--picture writes .svg or .png"),
    ],
)
def test_bad_arguments_are_2(formats, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, errors = formats(*arguments)
    assert (code, output) == (2, "")
    assert said in errors
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_picture_is_written(formats, tmp_path, suffix, start):
    file = tmp_path / f"lines.{suffix}"
    code, output, _ = formats("e3m4", "--picture", file)
    assert code == 0
    assert file.read_bytes().startswith(start)
    assert output.splitlines()[-1] == f"picture: {file}"
