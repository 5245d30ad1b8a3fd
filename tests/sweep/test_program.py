"""What is recorded of a program: what the policy says, and what the compiler makes of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from precis.doctor import Witness
from precis.sweep.program import load, make_program, policy_record
from precis.sweep.trial import Trial
from precis.train.recipe import Recipe


@pytest.fixture(scope="module")
def program():
    trial = Trial(task="digits", model="mlp", policy="mixed_bf16", recipe=Recipe(), steps=2, seed=0)
    return make_program(trial, load(trial, root=Path()))


def test_the_witness_is_recorded(program):
    record = policy_record(program)
    assert record["witness"] == {"differing": 0, "compared": 3 * 4096}
    assert record["in_force"] == 1.0
    assert record["notes"] == []


def test_nothing_is_in_force_where_the_compiler_leaves_out_roundings(program):
    record = policy_record(replace(program, witness=Witness(differing=7, compared=12288)))
    assert record["in_force"] == 0.0
    assert "leaves out roundings" in record["notes"][0]


def test_nothing_is_in_force_of_a_policy_that_the_model_overrules(line):
    # Verdicts on such an arm are withheld: tests/report/test_rows.py.
    pinned = '(batch["x"].astype(jnp.bfloat16) @ params["w"].astype(jnp.bfloat16)).astype(float)'
    line.write_text(line.read_text().replace('batch["x"] @ params["w"]', pinned))
    trial = Trial(task=str(line), policy="f32", recipe=Recipe(), steps=2, seed=0)
    record = policy_record(make_program(trial, load(trial, root=line.parent)))
    assert (record["in_force"], record["pinned"]) == (0.0, 1.0)
    assert record["notes"] == ["w: computes in bf16, whatever the policy"]
