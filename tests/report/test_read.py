"""A store is read as far as it got, and what strict JSON cannot say comes back as a float."""

import json
import math
import shutil

import pytest

from precis.report import load, summarize


def trial(store, arm, seed):
    return next(t for t in store.of("text", arm) if t.seed == seed)


def test_every_planned_trial_has_a_record(folder):
    store = load(folder)
    planned = json.loads((folder / "plan.json").read_text())["trials"]
    assert [t.dir for t in store.trials] == [entry["dir"] for entry in planned]
    assert {t.state for t in store.trials} == {"finished", "diverged", "failed", "pending"}


def test_a_finished_trial(folder):
    found = trial(load(folder), "mixed_f16", 1)
    assert [row.step for row in found.train] == list(range(10, 301, 10))
    assert [row.step for row in found.evals] == [100, 200, 300]
    assert found.evals[-1].own["eval_loss"] == found.summary["metric"]
    assert {role.key: role.format for role in found.roles}["c"] == "f16"
    assert (found.in_force, found.state, found.error) == (1.0, "finished", None)


def test_the_three_words_become_floats_and_other_text_stays(folder):
    found = trial(load(folder), "f16 unscaled", 0)
    assert math.isnan(found.train[-1].values["loss"])
    assert found.train[-1].values["grad_norm"] == math.inf
    assert math.isnan(found.summary["metric"])


def test_failed_and_pending_trials(folder):
    store = load(folder)
    failed, pending = trial(store, "crashed", 1), trial(store, "crashed", 2)
    assert failed.error.startswith("ValueError")
    assert failed.traceback.startswith("Traceback")
    assert not failed.summary
    assert (pending.state, pending.step, pending.train, pending.in_force) == (
        "pending",
        0,
        (),
        None,
    )


def test_a_torn_line_is_left_out_and_a_repeated_step_counts_once(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    name = trial(load(folder), "bf16", 0).dir
    with (copy / name / "metrics.jsonl").open("a") as file:
        file.write('{"step": 300, "loss": 7.5}\n{"step": 310, "lo')
    rows = trial(load(copy), "bf16", 0).train
    assert [row.step for row in rows] == list(range(10, 301, 10))
    assert rows[-1].values == {"loss": 7.5}


@pytest.mark.parametrize("name", ["status.json", "policy.json", "summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("text", [None, "", '{"step": ', "[]"])
def test_any_file_of_a_trial_may_be_missing_or_torn(folder, tmp_path, name, text):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for path in copy.glob(f"*/{name}"):
        path.unlink() if text is None else path.write_text(text)
    assert len(summarize(load(copy)).sections) == 2


def test_a_folder_without_a_plan_names_the_sweeps_inside(folder):
    with pytest.raises(ValueError, match=r"plan\.json is wanted.*quickstart"):
        load(folder.parent)
    with pytest.raises(ValueError, match=r"plan\.json is wanted"):
        load(folder / "nowhere")
