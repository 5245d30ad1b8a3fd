"""What is recorded of a program: what the policy says, and what the compiler makes of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from precis.doctor import Witness
from precis.policy import read_policy
from precis.sweep.program import first_state, load, make_program, policy_record
from precis.sweep.trial import Trial
from precis.train.fit import fit
from precis.train.recipe import Recipe


@pytest.fixture(scope="module")
def program():
    trial = Trial(task="digits", model="mlp", policy="mixed_bf16", recipe=Recipe(), steps=2, seed=0)
    return make_program(trial, load(trial, root=Path()))


def test_the_witness_is_recorded(program):
    record = policy_record(program)
    assert record["witness"] == {"differing": 0, "compared": 24_704}
    assert record["in_force"] == 1.0
    assert record["notes"] == []


def test_a_trial_says_that_its_gradients_do_not_travel(program):
    policies = read_policy("c=bf16,o=f32,r=int8@block256")
    record = policy_record(replace(program, audit=replace(program.audit, policy=policies)))
    assert record["notes"] == [
        "r=int8@block256 changes nothing: a trial's gradients stay on one device"
    ]


def test_nothing_is_in_force_where_the_compiler_leaves_out_roundings(program):
    record = policy_record(replace(program, witness=Witness(differing=7, compared=24_704)))
    assert record["in_force"] == 0.0
    assert "leaves out roundings" in record["notes"][0]


def test_a_policy_with_stochastic_gradients_runs(line):
    policy = "p=f32,c=int8,g=int8(stochastic),x=bf16,o=f32"
    trial = Trial(task=str(line), policy=policy, recipe=Recipe(), steps=2, seed=0)
    program = make_program(trial, load(trial, root=line.parent))
    record = policy_record(program)
    assert (record["policy"], record["in_force"]) == (policy.replace(",x=bf16", ""), 1.0)
    runs = [
        list(fit(program.step, program.task, first_state(program, trial), seed=seed, steps=2))
        for seed in (0, 0, 1)
    ]
    ends = [np.asarray(run[-1].state.params["w"]).tobytes() for run in runs]
    assert ends[0] == ends[1] != ends[2]
    params, state = runs[0][-1].state[1:3]
    assert program.evaluate(params, state) == program.evaluate(params, state)


def test_nothing_is_in_force_of_a_policy_that_the_model_overrules(line):
    # Verdicts on such an arm are withheld: tests/report/test_rows.py.
    pinned = '(batch["x"].astype(jnp.bfloat16) @ params["w"].astype(jnp.bfloat16)).astype(float)'
    line.write_text(line.read_text().replace('batch["x"] @ params["w"]', pinned))
    trial = Trial(task=str(line), policy="f32", recipe=Recipe(), steps=2, seed=0)
    record = policy_record(make_program(trial, load(trial, root=line.parent)))
    assert (record["in_force"], record["pinned"]) == (0.0, 1.0)
    assert record["notes"] == ["w: computes in bf16, whatever the policy"]
