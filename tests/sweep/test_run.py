"""Trials in this process, on a task that compiles in a moment."""

import io
import json
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from rich.console import Console

from precis.sweep import ArmSpec, Sweep, TaskSpec, launch, load_sweep, make_plan
from precis.sweep.program import moved_by_ulps


def run(folder, root, *, arms=("f32",), options=None, steps=20, redo_stale=False, **changes):
    specs = [arm if isinstance(arm, ArmSpec) else ArmSpec(name=arm, policy=arm) for arm in arms]
    task = TaskSpec(name="line.py", steps=steps, options=options or {})
    sweep = Sweep(name="t", task=(task,), arm=tuple(specs), **{"log_every": 5, **changes})
    plan = make_plan(sweep, root=root)
    console = Console(file=io.StringIO(), width=80)
    outcome = launch(
        plan, folder, file=None, root=root, workers=0, redo_stale=redo_stale, console=console
    )
    assert isinstance(console.file, io.StringIO)
    return outcome, {(p.arm, p.trial.seed): folder / p.dir for p in plan.trials}, console.file


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text())


def rows(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.world
def test_a_trial_leaves_its_record(tmp_path, line):
    outcome, trials, said = run(tmp_path / "s", line.parent, seeds=(4,), steps=12)
    assert outcome == (1, (), False)
    here = trials["f32", 4]
    assert [row["step"] for row in rows(here)] == [5, 10, 12, 12]
    assert read(here, "status.json")["state"] == "finished"
    assert read(here, "summary.json")["metric"] == rows(here)[-1]["eval"]["own"]["eval_miss"]
    assert read(here, "policy.json")["in_force"] == 1.0
    assert read(here, "config.json")["task"] == "line.py"
    plan = read(tmp_path / "s", "plan.json")
    assert plan["tasks"]["line"]["metric"] == "eval_miss"
    assert plan["tasks"]["line"]["facts"] == {"points": 64}
    assert "f32: p (f32)" in said.getvalue()


def test_seeds_and_the_perturbed_twin_share_one_compilation(tmp_path, line):
    def traces(name, **changes):
        log = tmp_path / f"{name}.log"
        run(tmp_path / name, line.parent, options={"traces": str(log)}, **changes)
        return log.read_text().count("traced")

    twin = ArmSpec(name="f32+ulp", policy="f32", perturb_ulp=1)
    once = traces("one", seeds=(0,))
    assert once == traces("many", seeds=(0, 1, 2), arms=("f32", twin))
    assert once < traces("two", seeds=(0,), arms=("f32", "mixed_bf16"))


def test_all_arms_of_a_seed_start_alike(tmp_path, line):
    _, trials, _ = run(
        tmp_path / "s", line.parent, arms=("f32", "mixed_bf16"), seeds=(0, 1), steps=1, log_every=1
    )
    losses = {key: rows(folder)[0]["loss"] for key, folder in trials.items()}
    assert losses["f32", 0] == pytest.approx(losses["mixed_bf16", 0], rel=0.02)
    assert losses["f32", 0] != pytest.approx(losses["f32", 1], rel=0.02)


@pytest.mark.world
def test_the_same_sweep_twice_writes_the_same_bytes(tmp_path, line):
    arms = ("bf16", "mixed_f16")
    _, one, _ = run(tmp_path / "a", line.parent, arms=arms, seeds=(0,))
    _, two, _ = run(tmp_path / "b", line.parent, arms=arms, seeds=(0,))
    for key, folder in one.items():
        assert (folder / "metrics.jsonl").read_bytes() == (two[key] / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("cadence", [{"log_every": 5}, {"log_every": 3, "eval_every": 4}])
def test_divergence_is_a_result_at_its_very_step(tmp_path, line, cadence):
    outcome, trials, said = run(
        tmp_path / "s", line.parent, options={"spike": 6}, seeds=(0,), checkpoint_every=4, **cadence
    )
    here = trials["f32", 0]
    assert outcome == (1, (), False)
    assert read(here, "status.json")["state"] == "diverged"
    assert read(here, "summary.json")["diverged_at"] == 7
    assert rows(here)[-1]["step"] == 7
    assert rows(here)[-1]["loss"] in ("NaN", "Infinity")
    assert "diverged at step 7" in said.getvalue()


def test_a_loss_scaler_survives_the_same_spike(tmp_path, line):
    _, trials, _ = run(
        tmp_path / "s", line.parent, arms=("mixed_f16",), options={"spike": 6}, seeds=(0,)
    )
    summary = read(trials["mixed_f16", 0], "summary.json")
    assert (summary["skipped"], summary["applied"], summary["diverged_at"]) == (1, 19, None)


def test_a_trial_that_raises_does_not_stop_the_others(tmp_path, line):
    broken = ArmSpec(name="broken", policy="f32", recipe={"warmup_steps": 99})
    outcome, trials, said = run(tmp_path / "s", line.parent, arms=(broken, "f32"), seeds=(0, 1))
    assert outcome.done == 2
    assert len(outcome.failed) == 2
    here = trials["broken", 1]
    assert "warmup of 99 steps" in (here / "traceback.txt").read_text()
    assert read(here, "status.json")["error"].startswith("ValueError: warmup of 99")
    assert "failed: ValueError" in said.getvalue()
    assert read(trials["f32", 1], "status.json")["state"] == "finished"


def test_what_is_done_is_not_done_again(tmp_path, line):
    _, trials, _ = run(tmp_path / "s", line.parent, seeds=(0,))
    before = (trials["f32", 0] / "summary.json").stat().st_mtime_ns
    outcome, _, said = run(tmp_path / "s", line.parent, seeds=(0, 1))
    assert outcome.done == 2
    assert "1 of 2 trials have their result already" in said.getvalue()
    assert (trials["f32", 0] / "summary.json").stat().st_mtime_ns == before


def test_other_codes_results_are_told_apart_and_redone(tmp_path, line):
    _, trials, _ = run(tmp_path / "s", line.parent, seeds=(0,))
    status = trials["f32", 0] / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"fingerprint": "other"}))
    _, _, said = run(tmp_path / "s", line.parent, seeds=(0,))
    assert "another version of precis" in " ".join(said.getvalue().split())
    run(tmp_path / "s", line.parent, seeds=(0,), redo_stale=True)
    assert json.loads(status.read_text())["fingerprint"] != "other"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_an_ulp_is_one_step_of_the_dtype(dtype):
    start = np.array([1.0, -1.0, 0.5, 3.0, -7.5] * 20, dtype)
    moved = np.asarray(moved_by_ulps({"w": jnp.asarray(start)}, 2, seed=0)["w"])
    # Neighbors of one sign are neighbors as integers.
    signed = np.int32 if dtype is np.float32 else np.int16
    steps = moved.view(signed).astype(int) - start.view(signed).astype(int)
    assert set(steps.tolist()) == {-2, 2}
    again = moved_by_ulps({"w": jnp.asarray(start)}, 2, seed=0)["w"]
    assert np.asarray(again).tobytes() == moved.tobytes()


def test_an_arm_with_rules_and_one_whose_rule_matches_nothing(tmp_path, line):
    arms = ("f32", "f32; w: c=bf16", "f32; q/**: c=bf16")
    outcome, trials, said = run(tmp_path / "s", line.parent, arms=arms, seeds=(0,), steps=5)
    plain, ruled, broken = (trials[arm, 0] for arm in arms)
    assert (outcome.done, outcome.failed) == (2, (broken.name,))
    assert "rule 'q/**' matches nothing: there are b, w" in read(broken, "status.json")["error"]
    record, text = read(ruled, "policy.json"), "p=f32,c=f32,o=f32; w: c=bf16"
    assert record["policy"] == read(ruled, "config.json")["policy"] == text
    assert record["rules"] == [{"pattern": "w", "key": "c", "role": "compute", "format": "bf16"}]
    assert rows(plain)[0]["loss"] != rows(ruled)[0]["loss"]
    assert text in said.getvalue()


FEW_BITS = """
name = "t"
log_every = 5
seeds = [3]
[recipe]
learning_rate = 1e-3
[[task]]
name = "line.py"
steps = 12
[[arm]]
name = "kahan"
policy = "bf16"
recipe = { master = "kahan", accumulate = 4, loss_scale = "torch" }
[[arm]]
name = "stochastic"
policy = "bf16"
recipe = { master = "stochastic", clip = 1.0, optimizer = "lion", b2 = 0.99 }
[[arm]]
name = "f32"
policy = "p=bf16,c=bf16,o=bf16,m=int8@block4,v=dynamic8@block4"
recipe = { master = "f32", trainable = ["w"], moments_min_size = 8 }
"""


def test_a_sweep_file_names_how_few_bits_are_trained(tmp_path, line):
    file = tmp_path / "few.toml"
    file.write_text(FEW_BITS)
    plan = make_plan(load_sweep(file), root=line.parent)
    console = Console(file=io.StringIO(), width=80)
    folder = tmp_path / "s"
    outcome = launch(
        plan, folder, file=None, root=line.parent, workers=0, redo_stale=False, console=console
    )
    assert outcome.failed == ()
    trials = {p.arm: folder / p.dir for p in plan.trials}
    recipes = {arm: read(trials[arm], "config.json")["recipe"] for arm in plan.arms}
    assert recipes["f32"]["trainable"] == ["w"]
    summaries = {arm: read(trials[arm], "summary.json") for arm in plan.arms}
    assert {summary["param_bytes"] for summary in summaries.values()} == {2 * 9}
    # Two moments and a compensation of 16 bits, a count, and a loss scale's numbers and flags.
    assert summaries["kahan"]["opt_bytes"] == 3 * 2 * 9 + 4 + (11 * 4 + 2)
    # Eight parameters: a master, and two moments of 8 bits with two scales each, and two counts.
    assert summaries["f32"]["opt_bytes"] == 8 * 4 + 2 * (8 + 2 * 4) + 2 * 4
    assert summaries["kahan"]["update_lost_median"] == 0.0
    assert summaries["kahan"]["loss_scale_final"] == 2.0**16
