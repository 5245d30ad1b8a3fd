"""README.md and docs/training.md: their code runs, their policies and recipes are read."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from precis.policy import KEYS, read_policy
from precis.train import Recipe

HOUSE = Path(__file__).parents[1]
README, TRAINING = ((HOUSE / name).read_text() for name in ("README.md", "docs/training.md"))
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", README + TRAINING)))
POLICIES = [span for span in SPANS if re.match(rf"(?:{'|'.join(KEYS)})=(?!$)", span)]
RECIPES = [
    span for span in SPANS if re.match(rf"(?:{'|'.join(f.name for f in fields(Recipe))}) = ", span)
]


def model(params, x):
    return jnp.tanh(x @ params["embed"]["kernel"]) @ params["head"]["kernel"]


def loss_fn(params, batch):
    return jnp.mean((model(params, batch["x"]) - batch["y"]) ** 2)


def test_the_code_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    keys = jax.random.split(jax.random.key(0))
    params = {
        "embed": {"kernel": 0.1 * jax.random.normal(keys[0], (16, 64))},
        "head": {"kernel": 0.1 * jax.random.normal(keys[1], (64, 8))},
    }
    batch = {"x": jnp.ones((4, 16)), "y": jnp.ones((4, 8))}
    names = {"model": model, "loss_fn": loss_fn, "params": params, "batch": batch}
    exec(blocks[0], names)
    assert bool(names["metrics"]["finite"])
    assert float(names["metrics"]["loss_scale"]) > 1
    exec(blocks[1], names)
    codes = names["encode"](names["x"], "e2m1")
    assert names["pack"](codes, "e2m1").nbytes == codes.size // 2
    exec(blocks[2], names)
    assert set(names["fn"].modes.values()) == {"w8a8"}


@pytest.mark.parametrize("text", POLICIES)
def test_policies_are_read(text):
    assert str(read_policy(str(read_policy(text)))) == str(read_policy(text))


@pytest.mark.parametrize("text", RECIPES)
def test_recipes_are_read(text):
    Recipe(**tomllib.loads(text))


def test_bytes_are_those_that_were_measured():
    measured = (HOUSE / "experiments" / "peers" / "memory.md").read_text().splitlines()
    table = TRAINING.partition("## What it saves")[2].partition("\n\nA policy")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 17
    assert [row for row in rows if row not in measured] == []
