"""The nouns of a store: what was planned, and what each trial left behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from precis.stats import Direction


class Role(NamedTuple):
    """One role of a policy.

    Attributes:
        key: Its letter in the grammar, as `c`.
        role: Its name, as `compute`.
        format: The text of its number format.
        reason: Where the format comes from.
    """

    key: str
    role: str
    format: str
    reason: str


class TrainRow(NamedTuple):
    """What the training step said.

    Attributes:
        step: How many steps had been taken.
        values: Scalars by name: `loss`, `grad_norm`, `grad_zero`, `update_lost`, …
    """

    step: int
    values: Mapping[str, Any]


class EvalRow(NamedTuple):
    """What an evaluation said, under the arm's own policy and in f32.

    Attributes:
        step: How many steps had been taken.
        own: Metrics by name under the arm's policy.
        f32: The same under f32.
    """

    step: int
    own: Mapping[str, float]
    f32: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the plan.

    Attributes:
        label: Its name within the sweep, as `digits-mlp`.
        name: The task's own name.
        model: Which of its models; None if it has only one.
        metric: Name of the eval metric.
        direction: Whether a good metric is small ("min") or large ("max").
        unit: The metric's unit, as `bits/byte`.
        tolerance: Absolute, in `unit`; None if the sweep file sets none.
        steps: Steps of a trial.
        facts: What the task says of its data.
    """

    label: str
    name: str
    model: str | None
    metric: str
    direction: Direction
    unit: str
    tolerance: float | None
    steps: int
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm of the plan.

    Attributes:
        name: As the sweep file has it.
        policy: Canonical text.
        given: The text as written.
        emulated: Some format has no native dtype, so that its step time says nothing.
        recipe: What it changes in the recipe.
        reason: Why the sweep has it, in its author's words.
        quantize: The mode that its weights run as, if it is quantized; else empty.
        of: The arm whose weights it quantizes; empty likewise.
    """

    name: str
    policy: str
    given: str
    emulated: bool
    recipe: Mapping[str, Any]
    reason: str
    quantize: str = ""
    of: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one trial left behind.

    Attributes:
        dir: Its folder within the sweep's.
        task: Label of its task.
        arm: Name of its arm.
        seed: Its seed.
        state: pending, running, interrupted, finished, diverged or failed.
        step: How far it got.
        error: What it raised, if it failed.
        fingerprint: Of the code that ran it.
        roles: Its policy, resolved.
        rules: What rules by path set, the key with its pattern: `head/**: c`.
        in_force: Share of matrix FLOPs that run as the policy says; None before the audit.
        pinned: Share that the model pins to another dtype.
        notes: The audit's findings.
        train: Logged steps, by step.
        evals: Evaluations, by step.
        summary: Final figures; empty before the end.
        traceback: Of what it raised; empty otherwise.
    """

    dir: str
    task: str
    arm: str
    seed: int
    state: str
    step: int
    error: str | None
    fingerprint: str | None
    roles: tuple[Role, ...]
    rules: tuple[Role, ...]
    in_force: float | None
    pinned: float | None
    notes: tuple[str, ...]
    train: tuple[TrainRow, ...]
    evals: tuple[EvalRow, ...]
    summary: Mapping[str, Any]
    traceback: str


@dataclass(frozen=True, slots=True)
class Store:
    """A whole sweep as it stands on disk.

    Attributes:
        folder: Where it was read from.
        name: The sweep's name.
        created: When it was planned, as the plan says.
        baseline: Name of the arm that the others are compared with.
        noise_floor: Name of the baseline's twin with moved initial parameters; None without one.
        tasks: In the plan's order.
        arms: In the plan's order.
        seeds: In the plan's order.
        trials: In the plan's order.
        environment: Versions, device and compiler options.
    """

    folder: Path
    name: str
    created: str
    baseline: str
    noise_floor: str | None
    tasks: tuple[Task, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    environment: Mapping[str, Any]

    def of(self, task: str, arm: str) -> tuple[Trial, ...]:
        """The trials of an arm on a task, in the plan's order."""
        return tuple(t for t in self.trials if t.task == task and t.arm == arm)

    def arm(self, name: str) -> Arm | None:
        """The arm of that name, or None."""
        return next((arm for arm in self.arms if arm.name == name), None)


def resolved(trials: Iterable[Trial]) -> tuple[Role, ...]:
    """What an arm's policy resolves to, rules by path included, by the first trial that says it."""
    return next(((*trial.roles, *trial.rules) for trial in trials if trial.roles), ())
