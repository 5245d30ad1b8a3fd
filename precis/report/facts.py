"""What ran: tasks, environment and trials, as pairs and rows of text for every face."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from precis.report.answer import tolerance, unit
from precis.report.records import Arm, Store, Trial
from precis.report.rows import TaskTable
from precis.report.words import NOTHING, count, decimals, number, short

_VERSIONS = ("python", "jax", "jaxlib", "flax", "optax", "ml_dtypes", "numpy", "precis")


class SeedLine(NamedTuple):
    """One trial, for the list of all of them.

    Attributes:
        dir: Its folder.
        state: What became of it.
        step: Steps taken of those planned.
        own: Final metric under its own policy.
        f32: The same weights in f32.
        note: When it diverged, or what it raised.
    """

    dir: str
    state: str
    step: str
    own: str
    f32: str
    note: str


def header(store: Store) -> str:
    """The sweep in one line: how much of what, on what."""
    shape = " × ".join(
        count(len(items), noun)
        for items, noun in ((store.arms, "arm"), (store.tasks, "task"), (store.seeds, "seed"))
    )
    env = store.environment
    cores = f", {count(env['cores'], 'core')}" if env.get("cores") else ""
    machine = f"{env['device']}{cores}" if env.get("device") else ""
    jax = f"jax {env['jax']}" if env.get("jax") else ""
    return " · ".join(part for part in (shape, machine, jax, store.created[:10]) if part)


def task_facts(table: TaskTable) -> tuple[tuple[str, str], ...]:
    """How the task was measured and judged: (what, how)."""
    task = table.task
    default = table.tolerance_is_default
    set_by = "a default, 1% of the baseline's mean" if default else "set in the sweep file"
    measured = f"{task.metric} in {task.unit}" if task.unit else task.metric
    aim = "lower" if task.direction == "min" else "higher"
    facts = [
        ("metric", f"{measured}, {aim} is better"),
        ("tolerance", f"{tolerance(table)} ({set_by})"),
        ("length", count(task.steps, "step")),
    ]
    if table.floor is not None:
        facts.append(("noise floor", f"{short(table.floor)}{unit(table)}"))
    return (*facts, *((key, value_text(value)) for key, value in task.facts.items()))


def quantized_note(table: TaskTable) -> str:
    """How to read quantized arms; empty without one."""
    if not any(row.arm.quantize for row in table.rows):
        return ""
    return (
        "Quantized arms have the weights of the arm that they are of, seed by seed; in f32, those "
        "that their codes stand for. Their bytes are of parameters, beside the baseline's."
    )


def environment(store: Store) -> tuple[tuple[str, str], ...]:
    """Versions, machine and compiler flags: (what, which)."""
    env = store.environment
    versions = " · ".join(f"{name} {env[name]}" for name in _VERSIONS if env.get(name))
    facts = [("versions", versions)] if versions else []
    rest = (key for key in env if key not in _VERSIONS)
    return (*facts, *((key.replace("_", " "), value_text(env[key])) for key in rest))


def recipe_text(arm: Arm) -> str:
    """What the arm changes in the recipe, as `loss_scale=none`; empty if nothing."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in arm.recipe.items())


def seeds_table(store: Store) -> tuple[SeedLine, ...]:
    """Every planned trial, in the plan's order."""
    figures = ("metric", "metric_f32")
    places = decimals([], [trial.summary.get(name) for trial in store.trials for name in figures])
    return tuple(_seed_line(store, trial, places) for trial in store.trials)


def value_text(value: Any) -> str:
    """A value of JSON as a reader would write it."""
    match value:
        case str():
            return value
        case dict():
            return ", ".join(f"{key}={value_text(item)}" for key, item in value.items()) or "none"
        case _:
            return json.dumps(value)


def _seed_line(store: Store, trial: Trial, places: int) -> SeedLine:
    planned = next((task.steps for task in store.tasks if task.label == trial.task), 0)
    own, f32 = (trial.summary.get(name) for name in ("metric", "metric_f32"))
    arm = store.arm(trial.arm)
    is_quantized = arm is not None and bool(arm.quantize)
    at = trial.summary.get("diverged_at")
    note = trial.error or (f"not finite at step {at}" if at is not None else "")
    return SeedLine(
        trial.dir,
        trial.state,
        NOTHING if is_quantized else f"{trial.step} of {planned}",
        number(own, places),
        number(f32, places),
        note,
    )
