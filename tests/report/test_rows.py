"""The table's figures, recomputed from the files with the standard library."""

import json
import math
import statistics

import pytest
from scipy import stats

from precis.report import load, summarize


def summaries(folder, arm):
    paths = sorted(folder.glob(f"text-{arm}-s*/summary.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_means_and_gaps(folder, rows):
    arm, base = summaries(folder, "bf16"), summaries(folder, "f32")
    row = rows["bf16"]
    own = [summary["metric"] for summary in arm]
    assert row.own.mean == pytest.approx(statistics.mean(own), rel=1e-14)
    assert row.f32.values == tuple(summary["metric_f32"] for summary in arm)
    want = stats.ttest_rel(own, [summary["metric"] for summary in base]).confidence_interval()
    assert row.gap.interval() == pytest.approx((want.low, want.high), rel=1e-9)


def test_verdicts(rows):
    kinds = {name: row.verdict.kind for name, row in rows.items() if row.verdict}
    assert kinds == {
        "f32+ulp": "within tolerance",
        "mixed_bf16": "within tolerance",
        "bf16": "worse",
        "mixed_f16": "inconclusive",
        "f16 unscaled": "diverges",
        "e5m3": "worse",
        "pinned": "withheld",
        "crashed": "inconclusive",
    }
    assert rows["crashed"].verdict.reason == "fewer than 3 seeds"
    assert [name for name, row in rows.items() if row.part == "baseline"] == ["f32"]


def test_a_metric_to_maximize_turns_the_verdict_around(report):
    digits = {row.arm.name: row for row in report.sections[1].table.rows}
    assert digits["bf16"].gap.mean < 0
    assert digits["bf16"].verdict.kind == "worse"
    assert digits["bf16"].verdict.tolerance_is_default
    assert report.sections[1].table.tolerance == pytest.approx(0.01 * digits["f32"].own.mean)


def test_a_mean_over_the_survivors_of_a_divergence_is_not_given(sample, tmp_path):
    made = sample.Made("shaky", "bf16", diverges={1: 100})
    arms = (*sample.ARMS[:2], made)
    report = summarize(load(sample.write_store(tmp_path / "runs", arms=arms)))
    row = report.sections[0].table.rows[-1]
    assert (row.own, row.f32, row.gap, row.gap_f32) == (None, None, None, None)
    assert (row.verdict.kind, row.verdict.diverged, row.verdict.n) == ("diverges", 1, 3)


def test_the_noise_floor_is_the_yardstick(folder, rows, text):
    arm, base = summaries(folder, "f32+ulp"), summaries(folder, "f32")
    squares = [(a["metric"] - b["metric"]) ** 2 for a, b in zip(arm, base, strict=True)]
    assert text.table.floor == pytest.approx(math.sqrt(sum(squares) / 3))
    assert rows["f32+ulp"].floor_multiple == pytest.approx(1.0)
    assert rows["bf16"].floor_multiple > 10


def test_costs(rows):
    assert rows["bf16"].param_bytes * 2 == rows["f32"].param_bytes
    assert rows["mixed_f16"].skipped == 9
    assert rows["mixed_f16"].taken == 900
    assert rows["mixed_bf16"].step_ms.median == pytest.approx(7.4)
    assert rows["e5m3"].step_ms is None
    assert rows["pinned"].in_force == 0.5


def test_without_a_noise_floor_or_an_audit(sample, tmp_path):
    folder = sample.write_store(tmp_path / "runs")
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"noise_floor": None}))
    for path in folder.glob("*/policy.json"):
        path.unlink()
    table = summarize(load(folder)).sections[0].table
    assert table.floor is None
    assert {row.verdict.kind for row in table.rows if row.verdict} == {"withheld"}
    assert {row.part for row in table.rows} == {"baseline", "arm"}
