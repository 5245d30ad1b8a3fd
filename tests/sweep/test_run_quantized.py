"""Quantized trials in this process, on a task that compiles in a moment."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from precis.quant import dequantize, quantize
from precis.sweep import ArmSpec, Sweep, TaskSpec, launch, make_plan
from precis.sweep.trained import load_trained

MATRIX = (
    ('"w": jax.random.normal(key, (8,))', '"w": jax.random.normal(key, (8, 2))'),
    ('batch["x"] @ params["w"]', '(batch["x"] @ params["w"]).sum(-1)'),
)
F32 = ArmSpec(name="f32", policy="f32")
W8 = ArmSpec(name="w8", quantize="w8", of="f32")
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


def run(folder, root, *arms, options=None, redo_stale=False, **changes):
    task = TaskSpec(name="line.py", steps=6, options=options or {})
    sweep = Sweep(name="t", task=(task,), arm=arms, **{"log_every": 5, **changes})
    plan = make_plan(sweep, root=root)
    console = Console(file=io.StringIO(), width=80)
    outcome = launch(
        plan, folder, file=None, root=root, workers=0, redo_stale=redo_stale, console=console
    )
    return outcome, {(p.arm, p.trial.seed): folder / p.dir for p in plan.trials}


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
