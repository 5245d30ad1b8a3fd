"""The answer names who holds, at what price, and leaves nobody out."""

from dataclasses import replace

from precis.report import load, summarize
from precis.report.answer import answer, detail
from precis.report.rows import Spread


def test_the_lead_names_the_arm_that_holds_and_its_price(text):
    assert text.answer.lead == (
        "`mixed_bf16` keeps `eval_loss` within ±0.02\u00a0bits/byte of `f32` (`mixed_bf16` is "
        "detectably worse, by 0.0041\u00a0bits/byte), at 0.61× the step time."
    )


def test_every_judged_arm_is_in_one_point(text):
    named = [name for point in text.answer.points for name, _ in point.arms]
    assert sorted(named) == sorted(row.arm.name for row in text.table.judged)


def test_a_step_time_is_claimed_only_beyond_the_timing_noise(text):
    base = text.table.baseline.step_ms
    for p90, claimed in ((base.p10 * 0.99, True), (base.p10 * 1.01, False)):
        step = Spread(median=base.p10 * 0.8, p10=base.p10 * 0.7, p90=p90)
        rows = [
            replace(row, step_ms=step if row.part == "arm" and row.step_ms else row.step_ms)
            for row in text.table.rows
        ]
        lead = answer(replace(text.table, rows=tuple(rows))).lead
        assert ("the step time" in lead) is claimed


def test_among_several_the_fastest_is_called_cheapest(report):
    lead = report.sections[1].answer.lead
    assert "`mixed_bf16`, `mixed_f16` and `e5m3` keep `accuracy`" in lead
    assert "cheapest is `mixed_bf16`" in lead


def test_details(text, rows):
    assert detail(text.table, rows["f16 unscaled"]) == "3 of 3 seeds, rate 29% to 100%"
    assert detail(text.table, rows["mixed_f16"]) == "about 5 seeds would decide"
    assert detail(text.table, rows["bf16"]) == "by 0.13\u00a0bits/byte"


def test_nobody_holds_and_nobody_has_run(sample, tmp_path):
    worse = (*sample.ARMS[:2], sample.ARMS[3])
    table = summarize(load(sample.write_store(tmp_path / "a", arms=worse))).sections[0].table
    assert answer(table).lead.startswith("No arm is shown to keep")
    folder = sample.write_store(tmp_path / "b", arms=worse)
    for path in folder.glob("*/status.json"):
        path.unlink()
    assert summarize(load(folder)).sections[0].answer.lead == "No arm has a result yet."
