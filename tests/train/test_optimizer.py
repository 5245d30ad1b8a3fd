"""Optimizers made from recipes against optax's own, and their schedules against Python's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.train.optimizer import make_optimizer
from precis.train.recipe import Recipe

PAIRS = {
    "adam": (
        Recipe(learning_rate=0.01, b1=0.8, b2=0.9, eps=1e-6),
        optax.adam(0.01, 0.8, 0.9, 1e-6),
    ),
    "adamw": (Recipe(optimizer="adamw", weight_decay=0.3), optax.adamw(1e-3, weight_decay=0.3)),
    "sgd": (Recipe(optimizer="sgd", learning_rate=0.1), optax.sgd(0.1)),
    "lion": (
        Recipe(optimizer="lion", b2=0.99, weight_decay=0.3),
        optax.lion(1e-3, 0.9, 0.99, weight_decay=0.3),
    ),
    "momentum": (Recipe(optimizer="sgd", momentum=0.9), optax.sgd(1e-3, 0.9)),
}


def steps_of(optimizer, count=5):
    params = jnp.linspace(-1.0, 1.0, 7)
    state = optimizer.init(params)
    for step in range(count):
        updates, state = jax.jit(optimizer.update)(jnp.sin(params + step), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", PAIRS)
def test_it_is_optax_bit_for_bit_at_float32(name):
    recipe, theirs = PAIRS[name]
    ours = make_optimizer(recipe, 5)
    np.testing.assert_array_equal(steps_of(ours), steps_of(theirs))


def rates(recipe, steps):
    """The rates that SGD shows when every gradient is 1."""
    optimizer = make_optimizer(recipe, steps)
    state, seen = optimizer.init(jnp.float32(0.0)), []
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        change, state = update(jnp.float32(1.0), state)
        seen.append(-float(change))
    return seen


def test_warmup_rises_to_the_full_rate_and_stays():
    recipe = Recipe(optimizer="sgd", learning_rate=0.5, warmup_steps=4)
    np.testing.assert_allclose(rates(recipe, 6), [0.125, 0.25, 0.375, 0.5, 0.5, 0.5], rtol=1e-6)


def test_cosine_after_warmup():
    recipe = Recipe(optimizer="sgd", learning_rate=2.0, warmup_steps=2, schedule="cosine")
    cosine = [1 + math.cos(math.pi * i / 8) for i in range(8)]
    # float32's cosine near its zero is off by an ulp of 1.
    np.testing.assert_allclose(rates(recipe, 10), [1.0, 2.0, *cosine], rtol=1e-6, atol=1e-6)


def test_cosine_from_the_first_step():
    recipe = Recipe(optimizer="sgd", learning_rate=1.0, schedule="cosine")
    np.testing.assert_allclose(rates(recipe, 4)[::2], [1.0, 0.5], rtol=1e-6)


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match="at least one step, got 0"):
        make_optimizer(Recipe(), 0)
    with pytest.raises(ValueError, match="warmup of 9 steps is longer than the run's 5"):
        make_optimizer(Recipe(warmup_steps=9), 5)
