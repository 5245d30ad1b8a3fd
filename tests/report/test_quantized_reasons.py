"""Quantized arms in a report: whose weights, how small, and where the gap comes from."""

import io
import json
import re
import statistics

import pytest
from rich.console import Console

from precis.report import figures, load, show, summarize, to_html, to_markdown
from precis.report.facts import seeds_table
from precis.report.roles import role_table

# By arm: its source, how it is stored, and what it adds by seed, under its mode and in f32.
QUANTIZED = {
    "w8a8": ("f32", "int8@channel", (0.001, -0.001, 0.0), (0.0, 0.0, 0.0)),
    "inputs": ("f32", "int8@channel", (0.1, 0.11, 0.12), (0.001, 0.001, 0.002)),
    "nf4": ("f32", "nf4@block64", (0.1, 0.11, 0.12), (0.1, 0.109, 0.119)),
    "half": ("f32", "int4@block32", (0.1, 0.11, 0.12), (0.05, 0.054, 0.06)),
    "low w8a8": ("low", "int8@channel", (0.001, 0.002, 0.003), (0.0, 0.0, 0.0)),
}
SHARE = 0.25


@pytest.fixture(scope="module")
def folder(sample, tmp_path_factory):
    arms = (*sample.ARMS[:2], sample.Made("low", "bf16", sample.BF16, harm=0.14))
    arms += tuple(sample.Made(name, name) for name in (*QUANTIZED, "lost"))
    tasks = {"text": sample.TASKS["text"]}
    here = sample.write_store(tmp_path_factory.mktemp("runs") / "ptq", arms=arms, tasks=tasks)
    plan = json.loads((here / "plan.json").read_text())
    table = {**QUANTIZED, "lost": ("low", "e2m1@channel", None, None)}
    for entry in plan["arms"]:
        if entry["name"] in table:
            of = table[entry["name"]][0]
            entry |= {"quantize": "w8a8", "of": of, "given": f"w8a8 of {of}"}
        if entry["name"] == "low w8a8":
            entry["recipe"] = {"smooth": 0.5}
    for trial in plan["trials"]:
        if trial["arm"] in table:
            rewrite(sample, here, trial, *table[trial["arm"]])
    sample.dump(here / "plan.json", plan)
    return here


def rewrite(sample, folder, trial, of, stored, own, weights):
    """Makes a trained trial's records into those of one that quantizes what `of` trained."""
    here, seed = folder / trial["dir"], trial["seed"]
    summary = json.loads((folder / f"text-{of}-s{seed}-0000" / "summary.json").read_text())
    blank = {key: None for key in summary if "step" in key or key in ("opt_bytes", "train_loss")}
    summary |= {**blank, "applied": 0, "param_bytes": round(3_281_920 * SHARE)}
    if own is None:
        summary |= {"metric": None, "metric_f32": None, "diverged_at": 300}
        status = json.loads((here / "status.json").read_text())
        sample.dump(here / "status.json", status | {"state": "diverged"})
    else:
        summary["metric"] += own[seed]
        summary["metric_f32"] += weights[seed]
    sample.dump(here / "summary.json", summary)
    (here / "metrics.jsonl").write_text("")
    policy = json.loads((here / "policy.json").read_text())
    roles = [role for role in policy["roles"] if role["key"] in "pckxoas"]
    formats = {"k": stored, "c": "int8"}
    roles = [role | {"format": formats.get(role["key"], "f32")} for role in roles]
    notes = ["head/kernel stays in float: 3 is no multiple of 64"] if stored[:3] == "nf4" else []
    sample.dump(here / "policy.json", policy | {"roles": roles, "notes": notes})


@pytest.fixture(scope="module")
def report(folder):
    return summarize(load(folder))


@pytest.fixture(scope="module")
def told(report):
    return {name: " ".join(texts) for name, texts in report.sections[0].findings}


def test_where_the_gap_is(told):
    assert "w8a8" not in told
    assert (
        "The gap is in the inputs: multiplied in f32, the weights are only 0.0013" in told["inputs"]
    )
    assert "The gap is in the weights" in told["nf4"]
    assert "50% of the gap is in the weights" in told["half"]
    # NF4's widest step, from -1 to its neighbor, and half of it.
    assert "`k=nf4@block64` has 16 values for all that shares a scale" in told["nf4"]
    assert "1 part in 7 of the largest" in told["nf4"]
    assert told["nf4"].endswith("head/kernel stays in float: 3 is no multiple of 64.")


def test_what_a_source_had_lost_is_told_from_what_quantizing_adds(report, told):
    rows = {row.arm.name: row for row in report.sections[0].table.rows}
    row, source = rows["low w8a8"], rows["low"]
    assert row.added.mean == pytest.approx(0.002)
    assert row.gap.mean == pytest.approx(source.gap.mean + 0.002)
    assert rows["low"].added is None
    assert "`low` was +0.14" in told["low w8a8"]
    assert "quantizing it adds +0.002 ± 0.0025." in told["low w8a8"]
    # It is worse than the baseline, by what it had before; the format is not to blame.
    assert row.verdict.kind == "worse"
    assert "int8" not in told["low w8a8"]


def test_what_is_not_finite_in_few_bits(told):
    assert "Evaluated in few bits, the loss is not finite, in 3 of 3 seeds." in told["lost"]


def test_parameters_are_compared_where_there_is_no_optimizer(folder, report):
    table, answer = report.sections[0].table, report.sections[0].answer
    assert "at 0.25× the bytes of parameters." in answer.lead
    summaries = [json.loads(p.read_text()) for p in folder.glob("text-f32-s*/summary.json")]
    base = statistics.mean(summary["param_bytes"] for summary in summaries)
    row = next(row for row in table.rows if row.arm.name == "w8a8")
    assert row.bytes == row.param_bytes == round(base * SHARE)
    assert row.bytes_beside(table.baseline) == pytest.approx(SHARE, rel=1e-6)


def test_every_face_says_how_to_read_them(report, folder):
    console = Console(file=io.StringIO(), width=80)
    show(folder, console)
    terminal = " ".join(console.file.getvalue().split())
    for face in (to_html(report), to_markdown(report), terminal):
        assert "Quantized arms have the weights of the arm that" in " ".join(face.split())
    assert max(map(len, console.file.getvalue().splitlines())) <= 80
    assert re.search(
        r"^ low w8a8 .*\n w8a8 of low  .*\n smooth=0\.5 ", console.file.getvalue(), re.M
    )
    assert "| `w8a8` | `w8a8 of f32` |" in to_markdown(report)
    # What was not trained has no curve, and no name among the curves.
    legend = to_html(report).split('<p class="legend">')[1].split("</p>")[0]
    assert "low" in legend
    assert "w8a8" not in legend
    assert figures(report.store, report.sections[0].table).losses


def test_roles_that_only_training_has_are_blank_and_unmarked(report):
    lines = {line.arm: line for line in role_table(report.store).lines}
    heads = [key for key, _ in role_table(report.store).heads]
    cells = dict(zip(heads, lines["w8a8"].formats, strict=True))
    assert cells["g"] == cells["m"] == ("", False)
    assert cells["k"] == ("int8@channel", True)
    steps = {line.dir: line.step for line in seeds_table(report.store)}
    assert (steps["text-w8a8-s0-0000"], steps["text-low-s0-0000"]) == ("–", "300 of 300")
