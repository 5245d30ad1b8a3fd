"""Plans of quantized arms: whose weights they are made of, and what is refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from precis.cli import run_command
from precis.sweep.plan import make_plan
from precis.sweep.record import plan_record
from precis.sweep.spec import ArmSpec, Sweep, TaskSpec

F32 = ArmSpec(name="f32", policy="f32", recipe={"clip": 1.0}, steps=7)
ULP = replace(F32, name="f32+ulp", perturb_ulp=1)
LOW = ArmSpec(name="low", policy="bf16")
W8 = ArmSpec(name="w8", quantize="w8", of="f32")
SWEEP = Sweep(name="s", task=(TaskSpec(name="digits", steps=5),), arm=(F32, W8), seeds=(0, 3))


def planned(tmp_path, **changes):
    return make_plan(replace(SWEEP, **changes), root=tmp_path)


def test_a_quantized_trial_is_its_source_but_for_what_it_does(tmp_path):
    plan = planned(tmp_path)
    trained, quantized = (
        next(p for p in plan.trials if p.arm == arm and p.trial.seed == 3) for arm in ("f32", "w8")
    )
    how = quantized.trial.quantized
    assert (how.mode, how.source) == ("w8", trained.digest)
    assert replace(quantized.trial, quantized=None, steps=7) == trained.trial
    assert quantized.trial.steps == 0
    # A seed's trials share a program, those of another mode do not.
    programs = {p.trial.program for p in planned(tmp_path, arm=(F32, W8, NF4)).trials}
    assert len(programs) == 3


NF4 = replace(W8, name="nf4", quantize="nf4 ;head/**:f32")


def test_the_source_decides_the_digest(tmp_path):
    before = planned(tmp_path, arm=(F32, NF4)).trials
    after = planned(tmp_path, arm=(replace(F32, recipe={}), NF4)).trials
    assert before[-1].trial.quantized.mode == "nf4; head/**: f32"
    plan = planned(tmp_path, arm=(F32, NF4))
    assert plan.arms["nf4"].given == "(nf4; head/**: f32) of f32"
    assert before[-1].digest != after[-1].digest
    # What the arms are called is no part of it, nor where they stand.
    renamed = (replace(NF4, of="plain", name="few"), replace(F32, name="plain"))
    assert {p.digest for p in planned(tmp_path, arm=renamed).trials} == {p.digest for p in before}


def test_an_axis_of_modes_over_each_arm_that_trains(tmp_path):
    grid = {"quantize": ("w8a8", "nf4"), "recipe.clip": (1.0, 2.0)}
    smoothed = replace(W8, name="smoothed", smooth=0.5)
    plan = planned(tmp_path, arm=(F32, smoothed), grid=grid)
    assert list(plan.arms) == [
        "f32,clip=1.0",
        "f32,clip=1.0,w8a8",
        "f32,clip=1.0,nf4",
        "f32,clip=2.0",
        "f32,clip=2.0,w8a8",
        "f32,clip=2.0,nf4",
        "smoothed,clip=1.0",
        "smoothed,clip=2.0",
    ]
    assert plan.baseline == "f32,clip=1.0"
    by_arm = {p.arm: p for p in plan.trials}
    for arm, source in (
        ("f32,clip=2.0,nf4", "f32,clip=2.0"),
        ("smoothed,clip=1.0", "f32,clip=1.0"),
    ):
        assert by_arm[arm].trial.quantized.source == by_arm[source].digest


def test_the_twin_of_a_baseline_is_quantized_as_it_is(tmp_path):
    of_ulp = replace(W8, name="w8 of ulp", of="f32+ulp")
    arms = (F32, of_ulp, W8, ULP)
    assert planned(tmp_path, arm=arms).noise_floor == "f32+ulp"
    assert planned(tmp_path, arm=arms, baseline="w8").noise_floor == "w8 of ulp"


def test_the_record_says_what_is_quantized(tmp_path):
    mse = replace(W8, calibrate="mse", smooth=0.5, reason="why")
    record = plan_record(planned(tmp_path, arm=(F32, mse)), root=tmp_path, old={})["arms"][1]
    assert record == {
        "name": "w8",
        "policy": "p=f32,c=f32,o=f32",
        "given": "w8 of f32",
        "emulated": False,
        "recipe": {"calibrate": "mse", "smooth": 0.5},
        "reason": "why",
        "quantize": "w8",
        "of": "f32",
    }


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        (replace(W8, of="f23"), "of = 'f23': no arm has that name; did you mean 'f32'"),
        (replace(W8, of="w8"), "of = 'w8', which is quantized itself; that one is of 'w8'"),
        (replace(W8, of=""), "wants the arm that trains it"),
        (replace(W8, quantize=""), "is of 'f32' and wants a mode"),
        (replace(W8, quantize="w8a9"), "arm 'w8': 'w8a9' is no mode.*did you mean 'w8a8'"),
        (replace(W8, quantize="f32; head/**: f32"), "quantizes nothing"),
        (replace(W8, policy="bf16"), "policy is for the arm that trains it, 'f32'"),
        (replace(W8, recipe={"clip": 2.0}), "recipe is for the arm that trains it"),
        (replace(W8, steps=3), "steps is for the arm that trains it"),
        (replace(W8, calibrate="mes"), "arm 'w8': no calibration is called 'mes'.*'mse'"),
        (replace(W8, smooth=1.5), "smooth is from 0 to 1, got 1.5"),
        (replace(LOW, smooth=0.5), "arm 'low': smooth is for arms that are quantized"),
    ],
)
def test_what_cannot_be_quantized_is_refused_before_anything_runs(arm, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        planned(tmp_path, arm=(F32, arm))


def test_the_example_is_shown_as_it_will_run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    file = Path(__file__).parents[2] / "experiments" / "ptq.toml"
    assert run_command(["sweep", str(file), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "int4 in 32s int4@block32 of f32" in lines
    assert "f32 (baseline) p=f32,c=f32,o=f32" in lines
    assert sum(line.endswith("  100 steps") for line in lines) == 2 * 3
    assert sum(line.endswith("  quantized") for line in lines) == 12 * 3


def test_modes_and_calibrations_are_checked_without_jax():
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from precis.sweep import ArmSpec, Sweep, TaskSpec, make_plan\n"
        "arms = (ArmSpec(name='a', policy='f32'),"
        " ArmSpec(name='b', quantize='nf4', of='a', calibrate='mse'))\n"
        "make_plan(Sweep(name='s', task=(TaskSpec(name='digits', steps=1),), arm=arms),"
        " root=Path())\nprint('jax' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "False\n"
