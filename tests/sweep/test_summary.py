from precis.sweep.summary import Clock, summarize

ROWS = [
    {"step": step, "loss": 1.0 / step, "grad_zero": 0.1 * step, "update_lost": 0.0, "skipped": 2}
    for step in (1, 2, 3)
]
EVAL = {"step": 3, "eval": {"own": {"eval_loss": 0.5}, "f32": {"eval_loss": 0.4}}}
SIZES = {"param_bytes": 4, "opt_bytes": 8}


def summary(rows, **changes):
    clock = Clock(compile_s=2.0, step_ms=[1.0, 2.0, 3.0])
    given = {"metric": "eval_loss", "clock": clock, "sizes": SIZES, "steps": 3, "diverged_at": None}
    return summarize(rows, **{**given, **changes})


def test_final_figures():
    found = summary([*ROWS, EVAL])
    assert (found["metric"], found["metric_f32"], found["metrics"]) == (
        0.5,
        0.4,
        {"eval_loss": 0.5},
    )
    assert (found["skipped"], found["applied"], found["diverged_at"]) == (2, 1, None)
    assert found["train_loss"] == 1.0 / 3
    assert found["grad_zero_median"] == 0.2
    assert (found["step_ms_median"], found["step_ms_p10"], found["compile_s"]) == (2.0, 1.2, 2.0)
    assert (found["param_bytes"], found["opt_bytes"]) == (4, 8)


def test_a_run_that_diverged_in_training_has_no_metric():
    found = summary([EVAL | {"step": 1}, *ROWS, {"step": 4, "loss": "NaN"}], diverged_at=4)
    assert found["metric"] is None
    assert found["diverged_at"] == 4
    assert found["train_loss"] == 1.0 / 3


def test_an_evaluation_that_is_not_finite_is_told():
    rows = [*ROWS, {"step": 3, "eval": {"own": {"eval_loss": "NaN"}, "f32": {"eval_loss": 1.0}}}]
    assert summary(rows, diverged_at=3)["metric"] == "NaN"


def test_nothing_to_say_is_none():
    found = summary([], clock=Clock(0.0, []), steps=0)
    assert found["metric"] is found["train_loss"] is found["step_ms_median"] is None
