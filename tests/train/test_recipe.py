"""Recipes as data: strict, jax-free, and with the nearest valid name in every error."""

import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict

import pytest
from pydantic import TypeAdapter, ValidationError

from precis.optim import loss_scale_like
from precis.train.loss_scale_text import PEERS, parse_loss_scale
from precis.train.recipe import Recipe, as_data


def test_it_needs_no_jax():
    program = "import precis.train.recipe, sys; print({'jax', 'optax'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.strip() == "set()", ran.stderr


def test_it_is_frozen_and_goes_through_json():
    recipe = Recipe(optimizer="adamw", weight_decay=0.1, clip=1.0, loss_scale="static:8")
    assert TypeAdapter(Recipe).validate_json(json.dumps(asdict(recipe))) == recipe
    with pytest.raises(FrozenInstanceError):
        recipe.clip = 2.0


def test_whole_numbers_are_floats_where_floats_are_wanted():
    assert json.dumps(asdict(Recipe(clip=1, learning_rate=1))) == json.dumps(
        asdict(Recipe(clip=1.0, learning_rate=1.0))
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamx"}, "no optimizer is called 'adamx'; did you mean 'adam"),
        ({"schedule": "cosin"}, "no schedule is called 'cosin'; did you mean 'cosine'"),
        ({"loss_scale": "dynamik"}, "'dynamik'; did you mean 'dynamic'"),
        ({"loss_scale": "static"}, "written 'static:1024' or .*, got 'static'"),
        ({"loss_scale": "torsh"}, "'torsh'; did you mean 'torch'"),
        ({"loss_scale": "torch:value=2"}, "no loss scale is called 'torch:value=2'"),
        ({"loss_scale": "dynamic:"}, "a loss scale has no ''"),
        ({"loss_scale": "dynamic:growth=2"}, "has no 'growth'; did you mean 'growth_factor'"),
        ({"loss_scale": "dynamic:min=1,min=2"}, "min is written once"),
        ({"loss_scale": "dynamic:growth_factor=0.5"}, "growth_factor is at least 1"),
        ({"loss_scale": "dynamic:backoff_factor=2"}, "backoff_factor is at most 1"),
        ({"loss_scale": "dynamic:growth_interval=1.5"}, "growth_interval is a whole number"),
        ({"loss_scale": "dynamic:min=4,max=2"}, "min is at most max"),
        ({"loss_scale": "dynamic:value=4,max=2"}, "value is at most max"),
        ({"remat": "dot"}, "no remat is called 'dot'; did you mean 'dots'"),
        ({"master": "kahn"}, "no master is called 'kahn'; did you mean 'kahan'"),
        ({"accumulate": 0}, "accumulate must be 1 or more, got 0"),
        ({"moments_min_size": 0}, "moments_min_size must be 1 or more"),
        ({"optimizer": "lion", "eps": 1e-6}, "lion has no eps"),
        ({"loss_scale": "static:-2"}, "static:1024"),
        ({"loss_scale": "static:inf"}, "static:1024"),
        ({"loss_scale": "torhc"}, "'torhc'; did you mean 'torch'"),
        ({"loss_scale": "auto:3"}, "no loss scale is called 'auto:3'"),
        ({"learning_rate": -1.0}, "learning_rate must be 0 or more, got -1.0"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"b2": 1.0}, "b2 must be 0 or more and less than 1"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"clip": 0.0}, "clip must be more than 0"),
        ({"weight_decay": 0.1}, "adam has no weight_decay, got 0.1; choose optimizer adamw"),
        ({"momentum": 0.9}, "adam has no momentum, got 0.9; choose optimizer sgd"),
        ({"optimizer": "sgd", "b1": 0.8}, "sgd has no b1"),
    ],
)
def test_bad_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": "1e-3"},
        {"learning_rate": True},
        {"learning_rate": None},
        {"warmup_steps": 1.0},
        {"warmup_steps": True},
        {"remat": 1},
        {"accumulate": 2.0},
        {"accumulate": True},
        {"master": None},
        {"trainable": "head"},
        {"trainable": [1]},
        {"moments_min_size": "4096"},
        {"optimizer": None},
        {"loss_scale": 1024},
    ],
)
def test_wrong_types_are_refused(settings):
    with pytest.raises(TypeError, match=f"recipe: {next(iter(settings))} wants"):
        Recipe(**settings)
    with pytest.raises(ValidationError):
        TypeAdapter(Recipe).validate_python(settings)


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError):
        TypeAdapter(Recipe).validate_python({"learning_rat": 1.0})


def test_the_words_of_a_loss_scale():
    texts = ["auto", "none", "dynamic", "static:1024", "static:0.5"]
    assert [parse_loss_scale(text) for text in texts] == [
        ("auto", {}),
        ("none", {}),
        ("dynamic", {}),
        ("static", {"value": 1024.0}),
        ("static", {"value": 0.5}),
    ]
    assert parse_loss_scale("dynamic: min=1, growth_interval=200") == (
        "dynamic",
        {"min": 1.0, "growth_interval": 200.0},
    )


def test_the_libraries_are_those_that_optim_knows():
    assert all(loss_scale_like(name) for name in PEERS)


def test_lists_become_tuples_and_what_came_later_is_left_out_at_its_default():
    assert set(as_data(Recipe())) == {
        "optimizer",
        "learning_rate",
        "b1",
        "b2",
        "eps",
        "momentum",
        "weight_decay",
        "warmup_steps",
        "schedule",
        "clip",
        "loss_scale",
        "remat",
    }
    recipe = Recipe(trainable=["head/**"], accumulate=4, master="kahan")
    assert recipe.trainable == ("head/**",)
    assert hash(recipe)
    assert Recipe(**json.loads(json.dumps(as_data(recipe)))) == recipe
    assert TypeAdapter(Recipe).validate_json(json.dumps(as_data(recipe)), strict=True) == recipe
