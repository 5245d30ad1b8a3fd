"""An audit on its faces: an 80-column terminal, Markdown, JSON, and the page that explains one."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from precis.cli import run_command
from precis.report import audit_markdown, print_audit
from precis.train import audit_task, load_task

PAGE = Path(__file__).parents[2] / "docs" / "autocast.md"
SHOWN = "mixed_bf16; head/**: c=f32"


@pytest.fixture(scope="module")
def record():
    import jax

    with jax.numpy_dtype_promotion("standard"):  # flax relies on it
        return audit_task(load_task("text"), SHOWN).record()


def printed(record, width=80):
    out = io.StringIO()
    print_audit(record, Console(file=out, width=width), title="text")
    return out.getvalue()


def test_a_terminal_of_80_columns_holds_it(record):
    text = printed(record)
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    assert lines[:3] == [
        "text  p=f32,c=bf16,o=f32; head/**: c=f32",
        "in force for 100.0% of 285 M matrix FLOPs",
        "by operands: bf16 88.2%, f32 11.8%; 10.5 MB carried",
    ]
    assert re.search(r"head/kernel +f32 +f32·f32→f32 +f32 +1 +33\.6 M +1\.38 M", text)
    assert "rule 'head/**': head/kernel" in lines
    assert "asks for full precision (HIGHEST): head/kernel" in lines
    assert "backward in f32, as f32·f32→f32: head/kernel" in lines


def test_the_page_shows_this_very_audit(record, request):
    before, shown, after = re.split(r"(?<=<!-- audit -->\n)|(?=<!-- end -->)", PAGE.read_text())
    if request.config.getoption("--golden"):
        PAGE.write_text(before + audit_markdown(record) + after)
        return
    assert shown == audit_markdown(record)


def test_the_words_of_the_page_hold(record):
    score = next(s for s in record["sites"] if s["path"].endswith("qkv/@dot0"))
    assert (score["out"], score["trips"]) == ("f32", 2)
    assert {f["kind"] for f in record["findings"]} == {"pins f32"}


def test_no_matrix_op():
    text = printed({"policy": "f32", "flops": 0, "in_force": 1.0, "sites": []})
    assert "no matrix op" in text


def test_faces_do_without_jax(record):
    code = "\n".join(
        [
            "import sys, json",
            "from rich.console import Console",
            "from precis.report import audit_markdown, print_audit",
            "record = json.load(sys.stdin)",
            "print_audit(record, Console())",
            "audit_markdown(record)",
            "assert 'jax' not in sys.modules",
        ]
    )
    subprocess.run([sys.executable, "-c", code], input=json.dumps(record), text=True, check=True,
                   capture_output=True)  # fmt: skip


def test_explain(capsys):
    assert run_command(["explain", "digits", "--policy", "int8", "--as", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["title"], record["in_force"]) == ("digits", 1.0)
    assert {site["product"] for site in record["sites"]} == {"int8·int8→int32"}


def test_explain_a_sweep(capsys):
    file = Path(__file__).parents[2] / "experiments" / "digits.toml"
    assert run_command(["explain", str(file), "--as", "json"]) == 0
    records = json.loads(capsys.readouterr().out)
    titles = [record["title"] for record in records]
    assert len(set(titles)) == len(titles) > 5
    assert "digits-mlp, mixed_bf16" in titles


def test_explain_a_file_of_ones_own(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    file = Path(__file__).parents[2] / "experiments" / "tasks" / "breast_cancer.py"
    assert run_command(["explain", str(file), "--policy", "c=e5m2@tensor,x=bf16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "emulated, as bf16·bf16→f32: all matrix ops" in lines
    assert "backward in e5m2@tensor, as bf16·bf16→f32: all matrix ops" in lines


def test_explain_says_what_cuda_has(capsys):
    assert run_command(["explain", "digits", "--policy", "fp8_hybrid", "--as", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    cuda = {"product": "e4m3fn·e4m3fn→f32", "backward": ["e5m2·e4m3fn→f32"]}
    assert all(site["on_cuda"] == cuda and not site["native"] for site in record["sites"])
    lines = printed(record, width=200).splitlines()
    there = "emulated, as bf16·bf16→f32; on CUDA e4m3fn·e4m3fn→f32"
    assert f"{there}: all matrix ops" in lines
    back = "backward in e5m2@tensor, as bf16·bf16→f32; on CUDA e5m2·e4m3fn→f32: all matrix ops"
    assert back in lines
    assert "| bf16·bf16→f32, emulated; on CUDA e4m3fn·e4m3fn→f32 |" in audit_markdown(record)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "explain wants a policy"),
        (["digits", "--policy", "mixed_bf61"], "mixed_bf16"),
        (["digits", "--policy", "f32; Dnse_0/*: c=bf16"], "nearest: 'Dense_0/*'"),
        (["digist", "--policy", "f32"], "did you mean 'digits'"),
    ],
)
def test_clear_errors(arguments, message, capsys):
    assert run_command(["explain", *arguments]) == 2
    assert message in capsys.readouterr().err
