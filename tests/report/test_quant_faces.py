"""A report on a quantized model on its faces: a terminal of 80 columns, and Markdown."""

import io
import json
import subprocess
import sys

from rich.console import Console

from precis.report import print_quantized, quantized_markdown

ROW = {
    "path": "layers/attention/qkv/kernel",
    "mode": "w8a8_outliers",
    "format": "int8@channel",
    "rule": "**",
    "weight_db": 46.21,
    "alone_db": 51.94,
    "cumulative_db": float("inf"),
    "loss_alone": 3.99918,
    "loss_cumulative": 4.25,
    "clipped": 0.0,
    "zeros": 0.00683,
    "bytes_before": 98304,
    "bytes_after": 26112,
}
RECORD = {
    "rows": [ROW, ROW | {"path": "head/kernel", "rule": "head/**", "clipped": 0.00001}],
    "kept": {"embed/embedding": "norms, biases and embeddings are kept"},
    "bytes_before": 558336,
    "bytes_after": 208640,
    "output_db": 42.9,
    "loss_before": 4.0,
    "loss_after": 4.25,
}


def printed(record):
    out = io.StringIO()
    print_quantized(record, Console(file=out, width=80), title="text, w8a8")
    return out.getvalue()


def test_a_terminal_of_80_columns_holds_it():
    lines = printed(RECORD).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:2] == [
        "text, w8a8",
        "545.25 → 203.75 KiB (2.7 times smaller), output SQNR 42.9 dB, loss 4 → 4.25 ",
    ]
    row = next(line for line in lines if line.strip().startswith("head/kernel"))
    assert row.split() == [
        *("head/kernel", "w8a8_outliers", "46.2", "51.9", "∞", "−0.00082"),
        *("<0.1%", "0.7%", "25.50"),
    ]
    assert "rule 'head/**', stored as int8@channel: head/kernel" in lines
    assert "in float, norms, biases and embeddings are kept: embed/embedding" in lines


def test_without_loss_and_without_outputs_there_are_no_columns_of_them():
    bare = dict.fromkeys(("alone_db", "cumulative_db", "loss_alone", "loss_cumulative"))
    record = RECORD | {"rows": [ROW | bare], "loss_before": None, "loss_after": None}
    text = printed(record)
    assert "alone" not in text
    assert "loss" not in text


def test_markdown_has_every_figure():
    lines = quantized_markdown(RECORD).splitlines()
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    assert cells == [
        *("`layers/attention/qkv/kernel`", "w8a8_outliers", "46.2", "51.9", "∞"),
        *("−0.00082", "+0.25", "0", "0.7%", "96.00 → 25.50"),
    ]
    assert lines[-1] == "- in float, norms, biases and embeddings are kept: `embed/embedding`"


def test_faces_do_without_jax():
    code = "\n".join(
        [
            "import sys, json",
            "from rich.console import Console",
            "from precis.report import print_quantized, quantized_markdown",
            "record = json.load(sys.stdin)",
            "print_quantized(record, Console())",
            "quantized_markdown(record)",
            "assert 'jax' not in sys.modules",
        ]
    )
    subprocess.run([sys.executable, "-c", code], input=json.dumps(RECORD), text=True, check=True,
                   capture_output=True)  # fmt: skip
