from dataclasses import replace

import pytest

from precis.sweep.plan import make_plan
from precis.sweep.record import plan_record
from precis.sweep.spec import ArmSpec, Sweep, TaskSpec
from precis.train.apex import apex_level
from precis.train.recipe import Recipe

F32 = ArmSpec(name="f32", policy="f32")
ULP = ArmSpec(name="f32+ulp", policy="p=f32,c=f32,o=f32", perturb_ulp=1)
LOW = ArmSpec(name="low", policy="mixed_bf16", recipe={"clip": 1.0})
SWEEP = Sweep(
    name="s",
    task=(TaskSpec(name="digits", model="mlp", steps=5),),
    arm=(F32, ULP, LOW),
    seeds=(0, 3),
)


def test_arms_times_tasks_times_seeds(tmp_path):
    tasks = (*SWEEP.task, TaskSpec(name="text", steps=7, tolerance=0.1, recipe={"b1": 0.8}))
    plan = make_plan(replace(SWEEP, task=tasks), root=tmp_path)
    assert len(plan.trials) == 2 * 3 * 2
    assert len({planned.dir for planned in plan.trials}) == 12
    last = plan.trials[-1]
    assert (last.task, last.arm, last.trial.seed, last.trial.steps) == ("text", "low", 3, 7)
    assert last.trial.recipe == Recipe(clip=1.0, b1=0.8)
    assert last.trial.policy == "p=f32,c=bf16,o=f32"
    assert plan.baseline == "f32"
    assert plan.noise_floor == "f32+ulp"


def test_the_order_of_the_file_does_not_move_a_trial(tmp_path):
    there = {planned.dir for planned in make_plan(SWEEP, root=tmp_path).trials}
    back = {p.dir for p in make_plan(replace(SWEEP, arm=SWEEP.arm[::-1]), root=tmp_path).trials}
    assert there == back


def test_a_grid_multiplies_arms(tmp_path):
    grid = {"recipe.learning_rate": (1e-3, 1e-2), "policy.s": ("f32", "bf16"), "steps": (2,)}
    plan = make_plan(replace(SWEEP, grid=grid, baseline="f32"), root=tmp_path)
    assert len(plan.arms) == 3 * 4
    assert plan.baseline == "f32,learning_rate=0.001,s=f32,steps=2"
    arm = plan.arms["low,learning_rate=0.01,s=bf16,steps=2"]
    trial = next(p.trial for p in plan.trials if p.arm == arm.name)
    assert trial.policy == "p=f32,c=bf16,s=bf16,o=f32"
    assert trial.recipe == Recipe(clip=1.0, learning_rate=1e-2)
    assert trial.steps == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"baseline": "f23"}, "baseline = 'f23': no arm has that name; did you mean 'f32'"),
        ({"noise_floor": "ulp"}, "noise_floor"),
        ({"arm": (F32, F32)}, "more than one arm is called 'f32'"),
        ({"arm": ()}, "at least one arm"),
        ({"task": SWEEP.task * 2}, "more than one task is called 'digits-mlp'.*label"),
        ({"task": (TaskSpec(name="digit", steps=1),)}, "no task 'digit'; did you mean 'digits'"),
        ({"task": (TaskSpec(name="digits", steps=0),)}, "steps: at least 1 is wanted, got 0"),
        ({"task": (TaskSpec(name="digits", steps=1, tolerance=-1.0),)}, "tolerance is 0 or more"),
        ({"seeds": (1, 1)}, "distinct numbers"),
        ({"log_every": 0}, "log_every"),
        ({"arm": (ArmSpec(name="a", policy="bf61"),)}, "arm 'a': no policy is called 'bf61'"),
        ({"arm": (replace(LOW, recipe={"momentum": 0.5}),)}, "arm 'low' on task 'digits-mlp'"),
        ({"arm": (ArmSpec(name="a", policy="p=e5m3", perturb_ulp=1),)}, "has no dtype"),
        ({"grid": {"recipe.clap": (1.0,)}}, "unknown key 'clap'; did you mean 'clip'"),
        ({"grid": {"stebs": (1,)}}, "no arm has a key 'stebs'; did you mean 'steps'"),
        ({"grid": {"steps": ()}}, "steps has no values"),
    ],
)
def test_a_bad_sweep_is_refused_before_it_runs(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        make_plan(replace(SWEEP, **change), root=tmp_path)


def test_the_record_keeps_what_earlier_runs_found_out(tmp_path):
    plan = make_plan(SWEEP, root=tmp_path)
    first = plan_record(plan, root=tmp_path, old={})
    assert first["tasks"]["digits-mlp"]["metric"] is None
    assert first["arms"][1]["recipe"] == {"perturb_ulp": 1}
    known = {"metric": "eval_loss", "direction": "min", "unit": "nats", "facts": {"n": 1}}
    first["tasks"]["digits-mlp"].update(known)
    assert plan_record(plan, root=tmp_path, old=first) == first


def test_paths_count_from_the_sweep_files_folder(tmp_path):
    (tmp_path / "mine.py").write_text("def task(): ...")
    sweep = replace(SWEEP, task=(TaskSpec(name="mine.py", steps=1),))
    before = make_plan(sweep, root=tmp_path).trials[0]
    assert before.task == "mine"
    (tmp_path / "mine.py").write_text("def task(): ...  # changed")
    assert make_plan(sweep, root=tmp_path).trials[0].digest != before.digest


def test_a_grid_over_a_role_keeps_the_rules(tmp_path):
    ruled = ArmSpec(name="ruled", policy="mixed_bf16; head/**: c=f32")
    plan = make_plan(replace(SWEEP, arm=(ruled,), grid={"policy.s": ("bf16",)}), root=tmp_path)
    assert plan.trials[0].trial.policy == "p=f32,c=bf16,s=bf16,o=f32; head/**: c=f32"


def test_an_apex_level_stands_for_a_policy_and_a_recipe(tmp_path):
    arms = (
        F32,
        ArmSpec(name="O1", apex="O1", recipe={"clip": 2.0}),
        ArmSpec(name="O2", apex="O2"),
        ArmSpec(name="unscaled", apex="O1", recipe={"loss_scale": "none"}),
    )
    plan = make_plan(replace(SWEEP, arm=arms, seeds=(0,)), root=tmp_path)
    trials = {planned.arm: planned.trial for planned in plan.trials}
    policy, recipe = apex_level("O1")
    assert trials["O1"].policy == str(policy)
    assert trials["O1"].recipe == replace(recipe, clip=2.0)
    assert trials["O2"].policy == "p=f16,c=f16,o=f32"
    assert trials["O2"].recipe.master == "f32"
    assert trials["unscaled"].recipe == replace(recipe, loss_scale="none")
    records = plan_record(plan, root=tmp_path, old={})["arms"]
    assert {record["name"]: record["recipe"].get("loss_scale") for record in records} == {
        "f32": None,
        "O1": "apex",
        "O2": "apex",
        "unscaled": "none",
    }


def test_weights_in_few_bits_that_could_not_learn_are_refused_before_a_sweep_runs(tmp_path):
    arms = (F32, ArmSpec(name="int8", policy="p=int8,o=f32"))
    with pytest.raises(ValueError, match=r"arm 'int8' on task .*hardly learn; choose master='f32'"):
        make_plan(replace(SWEEP, arm=arms), root=tmp_path)
    trained = replace(arms[1], recipe={"master": "stochastic"})
    make_plan(replace(SWEEP, arm=(F32, trained)), root=tmp_path)


def test_a_grid_may_change_an_apex_levels_policy(tmp_path):
    arms = (F32, ArmSpec(name="O1", apex="O1"))
    sweep = replace(SWEEP, arm=arms, seeds=(0,), grid={"policy.s": ("f32", "f16")})
    plan = make_plan(sweep, root=tmp_path)
    assert plan.arms["O1,s=f16"].policy == "p=f32,c=f16,o=f32,s=f16"


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (ArmSpec(name="a", apex="O4"), r"arm 'a': Apex has no level 'O4'; did you mean 'O"),
        (ArmSpec(name="a", apex="O1", policy="f32"), "a policy or an apex level, got both"),
        (ArmSpec(name="a"), "arm 'a' has a policy or an apex level, got neither"),
    ],
)
def test_an_arm_has_a_policy_or_a_level(arm, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_plan(replace(SWEEP, arm=(arm,)), root=tmp_path)
