"""From a recipe to an optax transformation."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from precis.train.recipe import Recipe


def make_optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformationExtraArgs:
    """The optimizer that `recipe` names.

    Clipping, loss scaling, and how moments and parameters are stored are `make_step`'s, for every
    optimizer.

    Args:
        recipe: Optimizer, schedule and their numbers.
        steps: Length of the training run; the cosine schedule ends there.

    Raises:
        ValueError: `steps` is not positive or leaves nothing after warmup.
    """
    if steps < 1:
        raise ValueError(f"a run has at least one step, got {steps}")
    if recipe.warmup_steps > steps:
        raise ValueError(f"warmup of {recipe.warmup_steps} steps is longer than the run's {steps}")
    rate = _rate(recipe, steps)
    match recipe.optimizer:
        case "adam":
            return optax.adam(rate, recipe.b1, recipe.b2, recipe.eps)
        case "adamw":
            decay = recipe.weight_decay
            return optax.adamw(rate, recipe.b1, recipe.b2, recipe.eps, weight_decay=decay)
        case "lion":
            return optax.lion(rate, recipe.b1, recipe.b2, weight_decay=recipe.weight_decay)
        case "sgd":
            return optax.sgd(rate, recipe.momentum or None)


def _rate(recipe: Recipe, steps: int) -> optax.ScalarOrSchedule:
    if recipe.schedule == "constant" and recipe.warmup_steps == 0:
        return recipe.learning_rate
    warmup = max(recipe.warmup_steps, 1)
    rest = max(steps - recipe.warmup_steps, 1)

    def rate(count: ArrayLike) -> Array:
        count = jnp.asarray(count, jnp.float32)
        # From 1 and not from 0: a first step with rate 0 would be a step for nothing.
        factor = jnp.minimum((count + 1) / warmup, 1.0)
        if recipe.schedule == "cosine":
            progress = jnp.clip((count - recipe.warmup_steps) / rest, 0.0, 1.0)
            factor = factor * (0.5 + 0.5 * jnp.cos(jnp.pi * progress))
        return recipe.learning_rate * factor

    return rate
