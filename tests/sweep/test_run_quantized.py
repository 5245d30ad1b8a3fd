"""Quantized trials in this process, on a task that compiles in a moment."""

import io
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from rich.console import Console

from precis import quantize_model
from precis.quant import dequantize, quantize
from precis.sweep import ArmSpec, Sweep, TaskSpec, fingerprint, launch, make_plan
from precis.sweep.group import make_bench, run_group
from precis.sweep.run_quantized import quantized_record
from precis.sweep.trained import load_trained
from precis.sweep.trial import Quantized
from precis.walk import Ran

MATRIX = (
    ('"w": jax.random.normal(key, (8,))', '"w": jax.random.normal(key, (8, 2))'),
    ('batch["x"] @ params["w"]', '(batch["x"] @ params["w"]).sum(-1)'),
)
F32 = ArmSpec(name="f32", policy="f32")
W8 = ArmSpec(name="w8", quantize="w8", of="f32")
# Its optimizer has keys, of which a shape does not tell the kind.
CHANCE = ArmSpec(name="chance", policy="bf16", recipe={"master": "stochastic"})
OF_CHANCE = ArmSpec(name="few", quantize="w8", of="chance")
STATIC = ArmSpec(name="static", quantize="w8a8_static", of="f32", smooth=0.5)


@pytest.fixture
def matrix(line):
    """The line's task, its weights a matrix: vectors stay in float."""
    text = line.read_text()
    for before, after in MATRIX:
        assert before in text
        text = text.replace(before, after)
    line.write_text(text)
    return line


def run(folder, root, *arms, tasks=None, redo_stale=False, workers=0, seeds=(0,), **changes):
    """Outcome, and folders by arm and seed, or by task if there are several."""
    specs = [
        TaskSpec(name="line.py", label=label, steps=6, options=options)
        for label, options in (tasks or {"line": {}}).items()
    ]
    sweep = Sweep(name="t", task=tuple(specs), arm=arms, seeds=seeds, **{"log_every": 5, **changes})
    plan = make_plan(sweep, root=root)
    outcome = launch(
        plan,
        folder,
        file=None,
        root=root,
        workers=workers,
        redo_stale=redo_stale,
        console=Console(file=io.StringIO(), width=80),
    )
    return outcome, {
        (p.arm, p.task if tasks else p.trial.seed): folder / p.dir for p in plan.trials
    }


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.mark.world
def test_train_once_quantize_many_ways(tmp_path, matrix):
    # The file has the quantized arms first, and yet their sources run before them.
    outcome, trials = run(
        tmp_path / "s", matrix.parent, W8, STATIC, F32, seeds=(0,), baseline="f32"
    )
    assert outcome == (3, (), False)
    plain, w8, static = (trials[arm, 0] for arm in ("f32", "w8", "static"))
    trained = load_trained(plain)
    qparams = quantize(trained.params, "int8")
    summary = read(w8, "summary.json")
    # 16 codes, a scale for each of two outputs, and the bias in float.
    assert summary["param_bytes"] == 16 + 2 * 4 + 4
    assert summary["opt_bytes"] is None
    # In float32, with the weights that the codes stand for.
    (batch,) = trained.task.eval_batches()
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), dequantize(qparams))
    miss = np.mean(((batch["x"].astype(np.float64) @ exact["w"]).sum(-1) + exact["b"]
                    - batch["y"]) ** 2)  # fmt: skip
    assert summary["metric_f32"] == pytest.approx(miss, rel=1e-5)
    # Inputs are rounded to 8 bits of mantissa and less, weights are not rounded again.
    assert summary["metric"] != summary["metric_f32"]
    assert summary["metric"] == pytest.approx(summary["metric_f32"], rel=0.05)
    record = read(w8, "policy.json")
    assert (record["policy"], record["in_force"]) == ("w8", 1.0)
    assert (record["modes"], record["kept"]) == ({"w": "w8"}, {})
    formats = {role["key"]: role["format"] for role in record["roles"]}
    assert (formats["k"], formats["c"], formats["x"]) == ("int8@channel", "bf16", "f32")
    # Static scales and smoothing have taken statistics of training batches: a vector more, a scale.
    assert read(static, "summary.json")["param_bytes"] == summary["param_bytes"] + 8 * 4 + 4
    with pytest.raises(ValueError, match="is quantized: the trial of which it is made"):
        load_trained(w8)


def test_seeds_share_one_compilation(tmp_path, matrix):
    def traces(name, seeds):
        log = tmp_path / f"{name}.log"
        tasks = {"line": {"traces": str(log)}}
        outcome, _ = run(tmp_path / name, matrix.parent, F32, W8, tasks=tasks, seeds=seeds)
        assert outcome.done == 2 * len(seeds)
        return log.read_text().count("traced")

    # Each seed's weights are restored, for which the loss is not looked at.
    assert traces("one", (0,)) == traces("two", (0, 1))


def test_what_became_of_the_source_becomes_of_what_is_made_of_it(tmp_path, matrix):
    tasks = {"raises": {"raises_at": 2}, "diverges": {"spike": 3}}
    outcome, trials = run(tmp_path / "s", matrix.parent, F32, W8, tasks=tasks)
    source, failed = trials["f32", "raises"], trials["w8", "raises"]
    assert set(outcome.failed) == {source.name, failed.name}
    error = read(failed, "status.json")["error"]
    assert f"{source.name}, which it quantizes, failed: RuntimeError: no batch at step 2" in error
    diverged = trials["w8", "diverges"]
    assert read(diverged, "status.json")["state"] == "diverged"
    summary = read(diverged, "summary.json")
    assert (summary["metric"], summary["diverged_at"]) == (None, 4)
    # Diverging is its verdict: what it would have run is known all the same.
    assert read(diverged, "policy.json")["in_force"] == 1.0


def test_it_is_made_of_what_is_there_and_waits_until_it_is(tmp_path, matrix):
    folder = tmp_path / "s"
    _, trials = run(folder, matrix.parent, CHANCE)
    source = trials["chance", 0]
    trained = (source / "summary.json").stat().st_mtime_ns
    # A mode that comes later finds its source trained.
    _, trials = run(folder, matrix.parent, CHANCE, OF_CHANCE)
    made = trials["few", 0]
    assert (source / "summary.json").stat().st_mtime_ns == trained
    files = [here / name for here in (source, made) for name in ("status.json", "summary.json")]
    finished = {file: file.read_text() for file in files}
    # Without a result of its source, whoever comes to it leaves it for later.
    for here in (source, made):
        (here / "summary.json").unlink()
    run_group(make_bench(folder, fingerprint=fingerprint(), stop=lambda: False), [made.name])
    assert read(made, "status.json")["state"] == "pending"
    # A source that other code has run is run again, and so is what is made of it.
    for file, text in finished.items():
        file.write_text(text)
    status = read(source, "status.json") | {"fingerprint": "other"}
    (source / "status.json").write_text(json.dumps(status))
    (made / "metrics.jsonl").write_text("")
    outcome, _ = run(folder, matrix.parent, CHANCE, OF_CHANCE, redo_stale=True)
    assert outcome.done == 2
    assert (made / "metrics.jsonl").read_text()
    assert read(source, "status.json")["fingerprint"] == fingerprint()


def test_workers_quantize_when_all_is_trained(tmp_path, matrix):
    outcome, _ = run(tmp_path / "s", matrix.parent, F32, W8, workers=2)
    assert outcome == (2, (), False)


def test_no_verdict_on_what_the_compiled_program_does_otherwise():
    # The walker's own account is of a program that runs as it says.
    weights = {"w": np.float32([[1, 2], [3, 4]])}
    fn, qparams = quantize_model(lambda p, x: x @ p["w"], weights, "w8a8")
    found = fn.audit(qparams, np.ones((2, 2), np.float32))
    how = Quantized(mode="w8a8", source="")
    claimed = ("int8·int8→int32",)
    runs = {"int8·int8→int32": 1.0, "int32·int32→int32": 1.0, "int4·int4→f32": 0.0}
    for ran, in_force in runs.items():
        seen = replace(found, ran={"w": Ran(claimed, (), {ran: 1}, {})})
        assert quantized_record(how, fn, seen, trained_under="bf16")["in_force"] == in_force
    roles = {
        role["key"]: role["format"]
        for role in quantized_record(how, fn, found, trained_under="bf16")["roles"]
    }
    assert (roles["p"], roles["k"], roles["c"]) == ("bf16", "int8@channel", "int8")
