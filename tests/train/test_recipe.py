"""Recipes as data: strict, jax-free, and with the nearest valid name in every error."""

import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict

import pytest
from pydantic import TypeAdapter, ValidationError

from precis.train.recipe import Recipe, parse_loss_scale


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
        ({"loss_scale": "static"}, "written 'static:1024', got 'static'"),
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
        ("auto", None),
        ("none", None),
        ("dynamic", None),
        ("static", 1024.0),
        ("static", 0.5),
    ]
