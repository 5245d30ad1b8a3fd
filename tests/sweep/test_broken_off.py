"""Real processes, killed and stopped for real: what they leave is what was never broken off."""

import json
import os
import random
import signal
import time

import pytest

from precis.sweep import is_held

STEPS = 240
SWEEP = f"""
seeds = [5]
log_every = 7
eval_every = 80
checkpoint_every = 8
[[task]]
name = "digits"
model = "mlp"
steps = {STEPS}
[[arm]]
name = "f16"
policy = "mixed_f16"
"""
# Of a sweep of this size; it only ends a test that hangs.
PATIENCE_S = 120


def wait_for(happened, process):
    give_up = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < give_up
        time.sleep(0.0005)


def the_trial(folder):
    plan = json.loads((folder / "plan.json").read_text())
    return folder / plan["trials"][0]["dir"]


def step_of(folder):
    try:
        status = json.loads((the_trial(folder) / "status.json").read_text())
    except FileNotFoundError:
        return 0
    return status["step"] if status["state"] == "running" else 0


def is_saving(folder):
    return any((the_trial(folder) / "checkpoints").glob("*.orbax-checkpoint-tmp"))


def saved_steps(folder):
    kept = (the_trial(folder) / "checkpoints").iterdir()
    return [int(path.name) for path in kept if path.name.isdigit()]


def finished(process):
    output, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output


def results(folder):
    summary = json.loads((the_trial(folder) / "summary.json").read_text())
    timeless = {k: v for k, v in summary.items() if not k.startswith(("step_ms", "compile_s"))}
    return (the_trial(folder) / "metrics.jsonl").read_bytes(), timeless


def written_at(folder):
    return (the_trial(folder) / "status.json").stat().st_mtime_ns


@pytest.mark.parametrize(
    ("kills", "signals"),
    [
        (1, ["SIGTERM"]),
        pytest.param(5, ["SIGTERM", "SIGINT"], marks=pytest.mark.nightly),
    ],
)
def test_killed_or_stopped_anywhere_it_ends_the_same(precis, tmp_path, kills, signals):
    seed = random.randrange(2**32)
    print(f"kill points drawn from seed {seed}")
    points = sorted(random.Random(seed).sample(range(9, STEPS // 2), kills))
    sweep = tmp_path / "digits.toml"
    sweep.write_text(SWEEP)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finished(precis("sweep", sweep, "--out", whole, "--workers", "0"))[0] == 0

    for index, point in enumerate(points):
        process = precis("sweep", sweep, "--out", broken)
        wait_for(lambda point=point: step_of(broken) >= point, process)
        if index == 0:
            wait_for(lambda: is_saving(broken), process)
        os.killpg(process.pid, signal.SIGKILL)
        assert finished(process)[0] == -signal.SIGKILL
        assert not (the_trial(broken) / "summary.json").exists()
    code, output = finished(precis("status", broken))
    assert "broken off" in output
    assert "nobody is at work here" in output

    # Ctrl-C reaches the whole group, SIGTERM the parent alone; both save at the very step.
    tells = {"SIGTERM": os.kill, "SIGINT": os.killpg}
    for name in signals:
        # What the broken run wrote last says nothing of the one that starts now.
        old = written_at(broken)
        process = precis("sweep", sweep, "--out", broken)
        wait_for(
            lambda old=old: written_at(broken) > old and step_of(broken) > max(saved_steps(broken)),
            process,
        )
        tells[name](process.pid, signal.Signals[name])
        code, output = finished(process)
        assert code == 75, output
        assert "the same command resumes" in output
        status = json.loads((the_trial(broken) / "status.json").read_text())
        assert status["state"] == "interrupted"
        assert saved_steps(broken) == [status["step"]]

    code, output = finished(precis("sweep", sweep, "--out", broken))
    assert code == 0, output
    assert results(broken) == results(whole)


def test_a_worker_that_dies_takes_one_trial_with_it(precis, tmp_path, line):
    sweep = tmp_path / "line.toml"
    sweep.write_text("""
        seeds = [0, 1, 2]
        [[task]]
        name = "line.py"
        steps = 10
        options = { dies_at = 4 }
        [[arm]]
        name = "f32"
        policy = "f32"
    """)
    code, output = finished(precis("sweep", sweep, "--out", tmp_path / "out", "--workers", "1"))
    assert code == 1, output
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    folders = [tmp_path / "out" / entry["dir"] for entry in plan["trials"]]
    read = [json.loads((folder / "status.json").read_text()) for folder in folders]
    assert [status["state"] for status in read] == ["finished", "failed", "finished"]
    assert read[1]["error"] == "the worker process died: signal SIGABRT"
    # The last words of the process: where in Python it was.
    assert "line.py" in (folders[1] / "traceback.txt").read_text()
    assert (tmp_path / "out" / "report.html").exists()


def test_there_is_one_writer(precis, tmp_path, line):
    sweep = tmp_path / "line.toml"
    sweep.write_text("""
        seeds = [0]
        [[task]]
        name = "line.py"
        steps = 1000000
        [[arm]]
        name = "f32"
        policy = "f32"
    """)
    first = precis("sweep", sweep, "--out", tmp_path / "out", "--workers", "1")
    try:
        wait_for(lambda: (tmp_path / "out" / "plan.json").exists(), first)
        code, output = finished(precis("sweep", sweep, "--out", tmp_path / "out"))
        assert code == 2
        assert f"is being written by process {first.pid}" in output.replace("\n", " ")
        # A worker whose parent was killed goes too, and the folder is free for the next.
        wait_for(lambda: step_of(tmp_path / "out") > 0, first)
        first.kill()
        give_up = time.monotonic() + PATIENCE_S
        while is_held(tmp_path / "out"):
            assert time.monotonic() < give_up
            time.sleep(0.01)
    finally:
        first.kill()
        first.wait()
