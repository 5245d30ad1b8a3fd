"""The answer names who holds, at what price, and leaves nobody out."""

from dataclasses import replace

from precis.report import load, summarize
from precis.report.answer import answer, detail


def test_the_lead_names_the_arm_that_holds_and_its_price(text):
    assert text.answer.lead == (
        "`mixed_bf16` keeps `eval_loss` within ±0.02\u00a0bits/byte of `f32` (detectably "
        "worse: `mixed_bf16` by 0.0041\u00a0bits/byte)."
    )


def test_every_judged_arm_is_in_one_point(text):
    named = [name for point in text.answer.points for name, _ in point.arms]
    assert sorted(named) == sorted(row.arm.name for row in text.table.judged)


def test_among_several_all_are_named_and_no_time_is_claimed(report):
    lead = report.sections[1].answer.lead
    assert "`mixed_bf16`, `mixed_f16` and `e5m3` keep `accuracy`" in lead
    assert "(detectably worse: `mixed_bf16` by 0.00042, " in lead
    assert "step time" not in lead


def test_the_arm_with_the_fewest_bytes_is_named(text):
    rows = [
        replace(row, param_bytes=row.param_bytes // 2, opt_bytes=row.opt_bytes // 2)
        if row.arm.name == "mixed_bf16"
        else row
        for row in text.table.rows
    ]
    lead = answer(replace(text.table, rows=tuple(rows))).lead
    assert lead.endswith("at 0.50× the bytes of parameters and optimizer state.")


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
