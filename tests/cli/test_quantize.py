"""`precis quantize` over a trial that a sweep left on disk."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from precis import load_quantized, quantize
from precis.cli import run_command
from precis.sweep.store.metrics import read_rows
from precis.sweep.trained import load_trained

SWEEP = """
seeds = [3]
[[task]]
name = "digits"
steps = 20
[[arm]]
name = "f32"
policy = "f32"
"""


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantize")
    (folder / "tiny.toml").write_text(SWEEP)
    runs = folder / "runs"
    assert run_command(["sweep", str(folder / "tiny.toml"), "--out", str(runs), "--workers=0"]) == 0
    (found,) = runs.glob("digits-*")
    return found


def quantized(trial, capsys, *arguments):
    capsys.readouterr()
    assert run_command(["quantize", str(trial), *arguments]) == 0
    return capsys.readouterr().out


def test_what_was_trained_comes_back(trial):
    trained = load_trained(trial)
    assert (trained.step, trained.trial.seed, trained.task.name) == (20, 3, "digits")
    losses = [
        trained.task.loss(trained.params, trained.state, batch, key=None, train=False)[0]
        for batch in trained.task.eval_batches()
    ]
    recorded = next(row["eval"]["f32"] for row in read_rows(trial / "metrics.jsonl")[::-1] if
                    "eval" in row)  # fmt: skip
    assert np.mean(jax.device_get(losses)) == pytest.approx(recorded["eval_loss"], rel=1e-5)


def test_a_report_in_json_with_rules_and_a_file(trial, capsys, tmp_path):
    out = tmp_path / "model.safetensors"
    asked = ["--format", "w8a8", "--rule", "Dense_2/**=f32", "--as", "json", "--out", str(out)]
    record = json.loads(quantized(trial, capsys, *asked))
    assert [row["path"] for row in record["rows"]] == ["Dense_0/kernel", "Dense_1/kernel"]
    assert record["kept"] == {"Dense_2/kernel": "the rules say so"}
    assert record["output_db"] > 30
    own = record["evaluation"]
    # One batch is all there is of this task, so the report is of the same.
    assert own["before"] == pytest.approx(record["loss_before"], rel=1e-5)
    assert own["after"] == pytest.approx(record["loss_after"], rel=1e-5)
    params = load_trained(trial).params
    loaded, wanted = load_quantized(out, like=params), quantize(params, "int8; Dense_2/**: f32")
    assert jax.tree.structure(loaded) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert run_command(["quantize", str(trial), *asked]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.nightly
def test_static_scales_and_smoothing_calibrate_by_themselves(trial, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = quantized(trial, capsys, "--format", "w8a8_static", "--smooth", "0.5").splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("w8a8_static")
    assert any("eval_loss over one held-out batch" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "w8a9"], "did you mean 'w8a8'"),
        (["--format", "w8", "--rule", "Dense_2"], "a pattern and a mode are wanted"),
        (["--format", "w8", "--rule", "Dnse_2/**=f32"], "nearest: 'Dense_2/**'"),
    ],
)
def test_clear_errors(trial, arguments, message, capsys):
    assert run_command(["quantize", str(trial), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_trial(trial, tmp_path, capsys):
    assert run_command(["quantize", str(trial.parent), "--format", "w8"]) == 2
    assert f"such as {trial.name} in it" in capsys.readouterr().err
    (tmp_path / "config.json").write_text((trial / "config.json").read_text())
    assert run_command(["quantize", str(tmp_path), "--format", "w8"]) == 2
    assert "no checkpoints" in capsys.readouterr().err


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "model.embed_tokens.weight": rng.standard_normal((32, 16), np.float32),
        "model.up_proj.weight": rng.standard_normal((24, 16), np.float32),
        "model.down_proj.weight": rng.standard_normal((16, 24), np.float32),
    }
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_file_gets_a_report_on_weights_alone(file, capsys):
    rule, out = "**/down_proj/*=nf4@block8", file.parent / "out.safetensors"
    text = quantized(file, capsys, "--format", "w8a8", "--rule", rule, "--out", str(out), "--as",
                     "json")  # fmt: skip
    record = json.loads(text)
    rows = {row["path"]: row for row in record["rows"]}
    assert rows["model/up_proj/weight"]["mode"] == "w8a8"
    assert rows["model/down_proj/weight"]["format"] == "nf4@block8"
    assert 40 < rows["model/up_proj/weight"]["weight_db"] < 60
    assert 20 < rows["model/down_proj/weight"]["weight_db"] < 30
    assert rows["model/up_proj/weight"]["bytes_after"] == 24 * 16 + 24 * 4
    assert list(record["kept"]) == ["model/embed_tokens/weight"]
    assert record["output_db"] is None
    text = quantized(file, capsys, "--format", "int4@block8", "--out", str(out), "--overwrite")
    assert "output SQNR" not in text
    assert "times smaller" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "w8"], "--out DST is wanted"),
        (["--format", "w8a8_static", "--out", "x"], "w8a8_static needs the inputs of a model"),
        (["--format", "w8", "--smooth", "0.5", "--out", "x"], "--smooth needs the inputs"),
        (["--format", "w8", "--rule", "up/**=f32", "--out", "x"], "matches nothing"),
    ],
)
def test_what_a_file_alone_cannot_have(file, arguments, message, capsys):
    assert run_command(["quantize", str(file), *arguments]) == 2
    assert message in capsys.readouterr().err
