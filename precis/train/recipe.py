"""`Recipe`: how to train, as plain data. It needs no jax, so that plans can be read without."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args

from precis.formats import FloatFormat
from precis.models.saves import WORDS
from precis.policy import PolicyRules
from precis.train.loss_scale_text import parse_loss_scale
from precis.types import did_you_mean

Optimizer = Literal["adam", "adamw", "lion", "sgd"]
Schedule = Literal["constant", "cosine"]
Master = Literal["none", "f32", "stochastic", "kahan"]

# Which optimizer reads which of the keys that not all of them read.
_READERS = {
    "b1": ("adam", "adamw", "lion"),
    "b2": ("adam", "adamw", "lion"),
    "eps": ("adam", "adamw"),
    "weight_decay": ("adamw", "lion"),
    "momentum": ("sgd",),
}

# What recipes have not always had: left out of their text at its default, so that a trial which
# does not use it keeps its digest.
_LATER = ("master", "accumulate", "trainable", "moments_keep", "moments_min_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train, whatever the policy.

    Attributes:
        optimizer: `adam`, `adamw` (decoupled weight decay), `lion` or `sgd`.
        learning_rate: The peak of the schedule.
        b1: Decay of Adam's first moment; Lion's weight of the old moment in its update.
        b2: Decay of Adam's second moment, or of Lion's moment, where 0.99 is usual.
        eps: What Adam adds to the root of the second moment.
        momentum: Of SGD; 0 keeps no state.
        weight_decay: Of AdamW and Lion, multiplied by the learning rate.
        warmup_steps: Steps of linear warmup, the last of them at the full learning rate.
        schedule: After warmup, `constant`, or `cosine` down to 0 where the run ends.
        clip: Largest global norm of the gradients; None leaves them.
        loss_scale: `auto` (dynamic if gradients can underflow under the policy), `none`,
            `dynamic`, `dynamic:growth_interval=200,…`, `static:<value>`, or the settings of
            `torch`, `apex`, `jmp`, `flax` or `keras`.
        remat: Whether the model recomputes its layers in the backward pass; or what it saves of
            them: `nothing`, as for true, `dots`, `dots_without_batch`, `everything`, or `codes`.
        master: How parameters that the policy stores in fewer bits than float32 are updated: from
            an `f32` master, with `stochastic` or `kahan` rounding, or `none`, rounded to nearest.
        accumulate: How many parts a batch is cut into, one after the other within a step.
        trainable: Patterns of the parameters that are trained, `!` before those that are not; none
            trains all.
        moments_keep: Patterns of the parameters whose moments stay in float32, where the policy has
            them in blocks.
        moments_min_size: Entries of the smallest parameter whose moments are in blocks.

    Raises:
        ValueError: An unknown name, a number out of range, or a key that the optimizer would
            ignore.
        TypeError: A value of another type.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    clip: float | None = None
    loss_scale: str = "auto"
    remat: bool | str = False
    master: Master = "none"
    accumulate: int = 1
    trainable: tuple[str, ...] = ()
    moments_keep: tuple[str, ...] = ()
    moments_min_size: int = 4096

    def __post_init__(self) -> None:
        _check_types(self)
        _check_name("optimizer", self.optimizer, get_args(Optimizer))
        _check_name("schedule", self.schedule, get_args(Schedule))
        _check_name("master", self.master, get_args(Master))
        if isinstance(self.remat, str):
            _check_name("remat", self.remat, WORDS)
        _check_ranges(self)
        parse_loss_scale(self.loss_scale)
        _check_readers(self)


def as_data(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a dict, what came later left out where it is at its default.

    `Recipe(**as_data(recipe)) == recipe`, and so it is from its JSON.
    """
    default = asdict(Recipe())
    found = asdict(recipe)
    return {k: x for k, x in found.items() if k not in _LATER or x != default[k]}


def check_master(policy: PolicyRules, master: str) -> None:
    """Checks that parameters which `policy` stores as codes and scales can learn.

    Raises:
        ValueError: They cannot.
    """
    coded = [str(fmt) for fmt in policy.params if not isinstance(fmt, FloatFormat)]
    if not coded or master in ("f32", "stochastic"):
        return
    reason = {
        "none": "rounded to nearest after each step, an update of less than half the distance of "
        "two codes is lost, and most updates are: weights would hardly learn",
        "kahan": "what a rounding leaves out of codes is no code",
    }.get(master, "that is no master")
    raise ValueError(
        f"p={coded[0]} with master={master!r}: {reason}; choose master='f32', which keeps a "
        "float32 copy in the optimizer's state, or 'stochastic', which rounds by chance and keeps "
        "nothing"
    )


def _check_types(recipe: Recipe) -> None:
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        # bool is an int to Python, and 1 a fine float to everybody.
        match field.name, value:
            case "remat", bool() | str():
                continue
            case "clip", None:
                continue
            case "optimizer" | "schedule" | "loss_scale" | "master", str():
                continue
            case "warmup_steps" | "accumulate" | "moments_min_size", int() if _is_int(value):
                continue
            case "trainable" | "moments_keep", list() | tuple() if _are_texts(value):
                # TOML and JSON have lists; a recipe is hashable.
                object.__setattr__(recipe, field.name, tuple(value))
                continue
            case name, int() | float() if _is_number(name) and not isinstance(value, bool):
                # Equal recipes must have one digest: 1 and 1.0 would print differently.
                object.__setattr__(recipe, field.name, float(value))
                continue
        raise TypeError(f"recipe: {field.name} wants {field.type}, got {value!r}")


def _is_int(value: Any) -> bool:
    return not isinstance(value, bool)


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_number(name: str) -> bool:
    return name in ("learning_rate", "clip", *_READERS)


def _check_name(key: str, name: str, choices: tuple[str, ...]) -> None:
    if name not in choices:
        raise ValueError(f"recipe: no {key} is called {name!r}{did_you_mean(name, choices)}")


def _check_ranges(recipe: Recipe) -> None:
    # Each is written so that NaN fails it.
    wanted = {
        "learning_rate": (0 <= recipe.learning_rate < math.inf, "0 or more"),
        "b1": (0 <= recipe.b1 < 1, "0 or more and less than 1"),
        "b2": (0 <= recipe.b2 < 1, "0 or more and less than 1"),
        "eps": (0 <= recipe.eps < math.inf, "0 or more"),
        "momentum": (0 <= recipe.momentum < 1, "0 or more and less than 1"),
        "weight_decay": (0 <= recipe.weight_decay < math.inf, "0 or more"),
        "warmup_steps": (recipe.warmup_steps >= 0, "0 or more"),
        "accumulate": (recipe.accumulate >= 1, "1 or more"),
        "moments_min_size": (recipe.moments_min_size >= 1, "1 or more"),
        "clip": (recipe.clip is None or 0 < recipe.clip < math.inf, "more than 0, or none"),
    }
    for key, (holds, range_) in wanted.items():
        if not holds:
            raise ValueError(f"recipe: {key} must be {range_}, got {getattr(recipe, key)}")


def _check_readers(recipe: Recipe) -> None:
    """A key that nobody reads would make two equal runs look different."""
    for field in fields(Recipe):
        readers = _READERS.get(field.name, get_args(Optimizer))
        value = getattr(recipe, field.name)
        if recipe.optimizer not in readers and value != field.default:
            raise ValueError(
                f"recipe: {recipe.optimizer} has no {field.name}, got {value}; "
                f"choose optimizer {' or '.join(readers)}, or leave it out"
            )
