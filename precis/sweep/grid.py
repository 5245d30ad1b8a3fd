"""A grid's arms: each arm with every combination of the grid's values, each in its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from precis.policy import KEYS, read_policy
from precis.sweep.spec import ArmSpec
from precis.types import did_you_mean

_PLAIN = ("policy", "steps", "perturb_ulp")
_QUANTIZE = "quantize"


def expand(arm: ArmSpec, grid: Mapping[str, tuple[Any, ...]]) -> list[ArmSpec]:
    """The arms that `grid` makes of `arm`, the last key varying fastest; itself for no grid.

    >>> arm = ArmSpec(name="bf16", policy="bf16")
    >>> [a.name for a in expand(arm, {"policy.s": ("f32", "bf16")})]
    ['bf16,s=f32', 'bf16,s=bf16']

    Values of `quantize` are no other ways to train, so the arm stays beside what they make of it:

    >>> [a.name for a in expand(arm, {"quantize": ("w8a8", "nf4")})]
    ['bf16', 'bf16,w8a8', 'bf16,nf4']

    A quantized arm has the combinations that the arm has of which it is made, one of each.

    Raises:
        ValueError: A key that is neither `recipe.<key>`, `policy.<role>`, `policy`, `steps`,
            `perturb_ulp` nor `quantize`, or has no values.
    """
    for key, values in grid.items():
        if not values:
            raise ValueError(f"grid: {key} has no values")
    others = {key: values for key, values in grid.items() if key != _QUANTIZE}
    modes = () if arm.quantize else grid.get(_QUANTIZE, ())
    arms: list[ArmSpec] = []
    for combination in product(*others.values()):
        changed = arm
        for key, value in zip(others, combination, strict=True):
            changed = _set(changed, key, value)
        arms += [changed, *(_quantized(changed, str(mode)) for mode in modes)]
    return arms


def _quantized(arm: ArmSpec, mode: str) -> ArmSpec:
    return ArmSpec(name=f"{arm.name},{mode}", quantize=mode, of=arm.name)


def _set(arm: ArmSpec, key: str, value: Any) -> ArmSpec:
    table, _, inner = key.partition(".")
    added = f",{inner or table}={value}"
    name = arm.name + added
    match table:
        case "recipe" | "policy" | "steps" | "perturb_ulp" if arm.quantize:
            return replace(arm, name=name, of=arm.of + added)
        case "recipe" if inner:
            return replace(arm, name=name, recipe={**arm.recipe, inner: value})
        case "policy" if inner:
            return replace(arm, name=name, policy=_with_role(arm.policy, inner, str(value)))
        case _ if key in _PLAIN:
            changes: dict[str, Any] = {key: value}
            return replace(arm, name=name, **changes)
        case _:
            choices = [
                *_PLAIN,
                _QUANTIZE,
                "recipe.learning_rate",
                *(f"policy.{role}" for role in KEYS),
            ]
            raise ValueError(f"grid: no arm has a key {key!r}{did_you_mean(key, choices)}")


def _with_role(policy: str, role: str, fmt: str) -> str:
    """The policy's text with one role in `fmt`; roles that follow it follow it there."""
    rules = read_policy(policy)
    given = {
        key.key: key.format for key in rules.roles() if key.key in "pco" or key.reason == "given"
    }
    short = {name: key for key, name in KEYS.items()}.get(role, role)
    base = ",".join(f"{key}={value}" for key, value in (given | {short: fmt}).items())
    return "; ".join([base, *map(str, rules.rules)])
