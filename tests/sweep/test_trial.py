import hashlib
import json
from dataclasses import replace

import pytest

from precis.sweep.trial import Trial, digest, folder_name, from_json, to_json
from precis.train.recipe import Recipe

TRIAL = Trial(task="digits", model="mlp", policy="p=f32", recipe=Recipe(), steps=10, seed=1)


def test_the_digest_is_sha256_of_json_and_source():
    expected = hashlib.sha256(to_json(TRIAL).encode() + b"\0" + b"source").hexdigest()
    assert digest(TRIAL, b"source") == expected


def test_a_trial_survives_its_json():
    trial = replace(TRIAL, options={"b": [1, 2], "a": None}, recipe=Recipe(clip=1.0))
    assert from_json(json.loads(to_json(trial))) == trial


def test_what_recipes_have_not_always_had_changes_no_digest_until_it_is_used():
    # Written by a version without master, accumulate, trainable and the moments' keys.
    text = (
        '{"eval_every":0,"log_every":10,"model":"mlp","options":{},"perturb_ulp":0,'
        '"policy":"p=f32","recipe":{"b1":0.9,"b2":0.999,"clip":null,"eps":1e-08,'
        '"learning_rate":0.001,"loss_scale":"auto","momentum":0.0,"optimizer":"adam",'
        '"remat":false,"schedule":"constant","warmup_steps":0,"weight_decay":0.0},'
        '"seed":1,"steps":10,"task":"digits"}'
    )
    assert to_json(TRIAL) == text
    assert from_json(json.loads(text)) == TRIAL


def test_the_order_of_options_does_not_matter():
    one, other = replace(TRIAL, options={"a": 1, "b": 2}), replace(TRIAL, options={"b": 2, "a": 1})
    assert to_json(one) == to_json(other)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "text"},
        {"model": None},
        {"options": {"batch_size": 8}},
        {"policy": "p=bf16"},
        {"recipe": Recipe(learning_rate=2e-3)},
        {"recipe": Recipe(master="kahan")},
        {"recipe": Recipe(trainable=["head/**"])},
        {"steps": 11},
        {"seed": 2},
        {"perturb_ulp": 1},
        {"log_every": 5},
        {"eval_every": 5},
    ],
)
def test_whatever_decides_bits_changes_the_digest(change):
    assert digest(replace(TRIAL, **change), b"") != digest(TRIAL, b"")
    assert digest(TRIAL, b"other source") != digest(TRIAL, b"")


def test_seeds_and_perturbations_share_a_program():
    assert replace(TRIAL, seed=7, perturb_ulp=1).program == TRIAL.program
    assert replace(TRIAL, steps=11).program != TRIAL.program


@pytest.mark.parametrize("arm", ["f32+ulp", "bf16,policy.x=f32", "a/b c", "Ünlü"])
def test_folder_names_are_safe(arm):
    name = folder_name("text", arm, seed=0, digest="0123456789")
    assert "/" not in name
    assert " " not in name
    assert name.startswith("text-")
    assert name.endswith("-s0-01234567")
