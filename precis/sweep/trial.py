"""A `Trial`: everything that decides what one run computes, and its digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from precis.sweep.store.strict import canonical
from precis.train.recipe import Recipe, as_data

# Enough to tell the trials of a sweep apart; the plan holds the whole digest.
_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """How few bits are made of what another trial has trained.

    Attributes:
        mode: Canonical text of the modes by path, as `mode_text` gives it.
        calibrate: What weights are scaled by.
        smooth: How much of large inputs weights take over; None for nothing.
        source: Digest of the trial that trained the weights.
    """

    mode: str
    calibrate: str = "absmax"
    smooth: float | None = None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run: of training, or of quantizing what another has trained.

    Equal trials compute equal bits, whatever their arms are called.

    Attributes:
        task: Name or path of the task.
        model: Which of its models.
        options: What the task is made with.
        policy: Canonical text of the policy.
        recipe: How to train.
        steps: Steps of training; 0 if it quantizes.
        seed: Decides initialization and batches.
        perturb_ulp: By how many ulps the initial parameters are moved.
        log_every: Steps between rows of metrics.
        eval_every: Steps between evaluations; 0 evaluates at the end only.
        quantized: What is quantized and how, all else being its source's; None if it trains.
    """

    task: str
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    policy: str
    recipe: Recipe
    steps: int
    seed: int
    perturb_ulp: int = 0
    log_every: int = 10
    eval_every: int = 0
    quantized: Quantized | None = None

    @property
    def program(self) -> str:
        """What trials share that compile to one program: all but seed, perturbation and source."""
        quantized = replace(self.quantized, source="") if self.quantized else None
        return to_json(replace(self, seed=0, perturb_ulp=0, quantized=quantized))


def as_record(trial: Trial) -> dict[str, Any]:
    """The trial as a dict, without what came later and is at its default."""
    record = asdict(trial) | {"recipe": as_data(trial.recipe)}
    if trial.quantized is None:
        del record["quantized"]
    return record


def to_json(trial: Trial) -> str:
    """The trial as canonical JSON: sorted keys, no spaces, strict."""
    return canonical(as_record(trial))


def from_json(data: Mapping[str, Any]) -> Trial:
    """The trial that `to_json` wrote, from its parsed JSON."""
    fields: dict[str, Any] = {**data, "recipe": Recipe(**data["recipe"])}
    if quantized := data.get("quantized"):
        fields["quantized"] = Quantized(**quantized)
    return Trial(**fields)


def digest(trial: Trial, source: bytes) -> str:
    """SHA-256 of the trial's canonical JSON and of the file that defines its task, in hex."""
    return hashlib.sha256(to_json(trial).encode() + b"\0" + source).hexdigest()


def folder_name(task: str, arm: str, *, seed: int, digest: str) -> str:
    """The folder of a trial: task, arm, seed and the start of its digest.

    >>> folder_name("text", "f32+ulp", seed=1, digest="3fa9c2d1e5")
    'text-f32_ulp-s1-3fa9c2d1'
    """
    words = re.sub(r"[^\w.-]+", "_", f"{task}-{arm}")
    return f"{words}-s{seed}-{digest[:_DIGITS]}"
