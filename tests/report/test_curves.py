"""The curves against loops over the records; a mean never goes on without a diverged seed."""

import math

import numpy as np
import pytest

from precis.report.curves import gap, loss, scales


def logged(trial):
    return {row.step: row.values["loss"] for row in trial.train}


def test_the_gap_is_the_rolling_rms_of_paired_differences(rows):
    arm, base = rows["e5m3"], rows["f32"]
    squares = [
        [(logged(a)[step] - logged(b)[step]) ** 2 for step in range(10, 301, 10)]
        for a, b in zip(arm.trials, base.trials, strict=True)
    ]
    line = gap(arm, base)
    assert list(line.steps) == list(range(10, 301, 10))
    for place in range(30):
        window = [seed[max(0, place - 4) : place + 1] for seed in squares]
        means = [math.fsum(part) / len(part) for part in window]
        assert line.middle[place] == pytest.approx(math.sqrt(sum(means) / 3), rel=1e-12)
        assert line.low[place] == pytest.approx(math.sqrt(min(means)), rel=1e-12)
        assert line.high[place] == pytest.approx(math.sqrt(max(means)), rel=1e-12)


def test_means_and_gaps_end_at_the_first_divergence(rows):
    curve = loss(rows["f16 unscaled"])
    assert curve.mean[0][-1] == 110
    assert [step for step, _ in curve.ends] == [117, 137, 117]
    assert all(np.isfinite(value) for _, value in curve.ends)
    assert gap(rows["f16 unscaled"], rows["f32"]).steps[-1] == 110


def test_the_mean_is_over_all_seeds(rows):
    curve = loss(rows["bf16"])
    at_200 = [logged(trial)[200] for trial in rows["bf16"].trials]
    assert curve.mean[1][list(curve.mean[0]).index(200)] == pytest.approx(np.mean(at_200))


def test_the_gap_of_an_arm_to_itself_is_zero(rows):
    assert not gap(rows["f32"], rows["f32"]).high.any()


def test_a_scale_has_its_history_and_its_skips(rows):
    assert scales(rows["f32"]) == ()
    first, *others = scales(rows["mixed_f16"])
    assert len(others) == 2
    assert first.skips == ((30, 2.0**17), (60, 2.0**16), (90, 2.0**15))
    assert list(first.steps) == list(range(10, 301, 10))
    assert list(first.values[:3]) == [2.0**18, 2.0**18, 2.0**17]
    assert set(first.values[9:]) == {2.0**15}


def test_long_runs_are_thinned_from_end_to_end(sample, tmp_path):
    from precis.report import load, summarize

    tasks = {"text": sample.TASKS["text"] | {"steps": 5000}}
    arms = sample.ARMS[:2]
    folder = sample.write_store(tmp_path / "runs", arms=arms, tasks=tasks)
    base, twin = summarize(load(folder)).sections[0].table.rows
    steps = gap(twin, base).steps
    assert len(steps) < 300
    assert (steps[0], steps[-1]) == (10, 5000)
