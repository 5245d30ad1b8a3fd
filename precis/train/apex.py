"""Apex's optimization levels `O0` to `O3`, each as a policy and a recipe. It needs no jax."""

from __future__ import annotations

from typing import Any

from precis.policy import Policy, get_policy
from precis.train.recipe import Recipe
from precis.types import did_you_mean

# Apex casts what leaves a model of O2 or O3 back to float32; its optimizers keep states in the
# dtype of what they update, which is the float32 master in O2 and the float16 model in O3. What it
# does to BatchNorm alone, float32 statistics and arithmetic, policies do to all islands.
_LEVELS: dict[str, tuple[str, dict[str, Any]]] = {
    "O0": ("p=f32,c=f32,o=f32", {"loss_scale": "none", "master": "none"}),
    "O1": ("p=f32,c=f16,o=f32", {"loss_scale": "apex", "master": "none"}),
    "O2": ("p=f16,c=f16,o=f32", {"loss_scale": "apex", "master": "f32"}),
    "O3": ("p=f16,c=f16,o=f32,m=f16,v=f16", {"loss_scale": "static:1", "master": "none"}),
}


def apex_level(name: str) -> tuple[Policy, Recipe]:
    """What an optimization level of NVIDIA's Apex stands for here.

    * `O0`: float32.
    * `O1`: float32 parameters, matrix ops in float16, islands in float32, the loss scaled.
    * `O2`: float16 parameters with a float32 master, the loss scaled.
    * `O3`: all of it in float16, optimizer states too; no scaling.

    In `O2` Apex leaves the weights of BatchNorm in float32 storage. Here their master is: for
    theirs as well, add a rule such as `bn*/**: p=f32` to the policy.

    >>> policy, recipe = apex_level("O1")
    >>> str(policy), recipe.loss_scale
    ('p=f32,c=f16,o=f32', 'apex')

    Raises:
        ValueError: There is no such level.

    Source: apex.amp.frontend, the properties of `opt_levels`.
    """
    policy, changes = apex_changes(name)
    return get_policy(policy), Recipe(**changes)


def apex_changes(name: str) -> tuple[str, dict[str, Any]]:
    """The text of a level's policy, and what it changes in a recipe.

    Raises:
        ValueError: There is no such level.
    """
    if name not in _LEVELS:
        raise ValueError(f"Apex has no level {name!r}{did_you_mean(name, _LEVELS)}")
    policy, changes = _LEVELS[name]
    return policy, dict(changes)
