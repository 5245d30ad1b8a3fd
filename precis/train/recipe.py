"""`Recipe`: how to train, as plain data. It needs no jax, so that plans can be read without."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from precis.types import did_you_mean

_OPTIMIZERS = ("adam", "adamw", "sgd")
_SCHEDULES = ("constant", "cosine")
_PEERS = ("torch", "apex", "jmp", "flax", "keras")
_LOSS_SCALES = ("auto", "none", "dynamic", "static:1024", *_PEERS)

# Which optimizer reads which of the keys that not all of them read.
_READERS = {
    "b1": ("adam", "adamw"),
    "b2": ("adam", "adamw"),
    "eps": ("adam", "adamw"),
    "weight_decay": ("adamw",),
    "momentum": ("sgd",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train, whatever the policy.

    Attributes:
        optimizer: `adam`, `adamw` (decoupled weight decay) or `sgd`.
        learning_rate: The peak of the schedule.
        b1: Decay of Adam's first moment.
        b2: Decay of Adam's second moment.
        eps: What Adam adds to the root of the second moment.
        momentum: Of SGD; 0 keeps no state.
        weight_decay: Of AdamW, multiplied by the learning rate.
        warmup_steps: Steps of linear warmup, the last of them at the full learning rate.
        schedule: After warmup, `constant`, or `cosine` down to 0 where the run ends.
        clip: Largest global norm of the gradients; None leaves them.
        loss_scale: `auto` (dynamic if gradients can underflow under the policy), `none`,
            `dynamic`, `static:<value>`, or dynamic with what `torch`, `apex`, `jmp`, `flax` or
            `keras` starts from.
        remat: Whether the model recomputes its layers in the backward pass.

    Raises:
        ValueError: An unknown name, a number out of range, or a key that the optimizer would
            ignore.
        TypeError: A value of another type.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip: float | None = None
    loss_scale: str = "auto"
    remat: bool = False

    def __post_init__(self) -> None:
        _check_types(self)
        _check_name("optimizer", self.optimizer, _OPTIMIZERS)
        _check_name("schedule", self.schedule, _SCHEDULES)
        _check_ranges(self)
        parse_loss_scale(self.loss_scale)
        _check_readers(self)


def parse_loss_scale(text: str) -> tuple[str, float | None]:
    """The word and the value of a recipe's loss scale.

    >>> parse_loss_scale("static:1024"), parse_loss_scale("auto")
    (('static', 1024.0), ('auto', None))

    Raises:
        ValueError: An unknown word, or a static value that is no positive number.
    """
    word, colon, value = text.partition(":")
    if word == "static":
        return word, _positive(value, text)
    if colon or word not in _LOSS_SCALES:
        raise ValueError(f"no loss scale is called {text!r}{did_you_mean(text, _LOSS_SCALES)}")
    return word, None


def _positive(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"a static loss scale is written 'static:1024', got {text!r}")
    return number


def _check_types(recipe: Recipe) -> None:
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        # bool is an int to Python, and 1 a fine float to everybody.
        match field.name, value:
            case "remat", bool():
                continue
            case "clip", None:
                continue
            case "optimizer" | "schedule" | "loss_scale", str():
                continue
            case "warmup_steps", int() if not isinstance(value, bool):
                continue
            case name, int() | float() if _is_number(name) and not isinstance(value, bool):
                # Equal recipes must have one digest: 1 and 1.0 would print differently.
                object.__setattr__(recipe, field.name, float(value))
                continue
        raise TypeError(f"recipe: {field.name} wants {field.type}, got {value!r}")


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
        "clip": (recipe.clip is None or 0 < recipe.clip < math.inf, "more than 0, or none"),
    }
    for key, (holds, range_) in wanted.items():
        if not holds:
            raise ValueError(f"recipe: {key} must be {range_}, got {getattr(recipe, key)}")


def _check_readers(recipe: Recipe) -> None:
    """A key that nobody reads would make two equal runs look different."""
    for field in fields(Recipe):
        readers = _READERS.get(field.name, _OPTIMIZERS)
        value = getattr(recipe, field.name)
        if recipe.optimizer not in readers and value != field.default:
            raise ValueError(
                f"recipe: {recipe.optimizer} has no {field.name}, got {value}; "
                f"choose optimizer {' or '.join(readers)}, or leave it out"
            )
