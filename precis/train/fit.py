"""The training loop: a generator over steps. It touches no disk, and any state can go on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array

from precis.train.state import TrainState
from precis.train.step import Step
from precis.train.task import Task

# Streams of one seed: what draws the weights must not be what draws the dropout.
_INIT, _STEPS = 0, 1


class Taken(NamedTuple):
    """A step that was taken.

    Attributes:
        step: Its number, counted from 1.
        state: The state after it.
        metrics: Scalars of it, still on the device.
    """

    step: int
    state: TrainState
    metrics: dict[str, Array]


def init_key(seed: int) -> Array:
    """The key from which a trial of `seed` draws its initial parameters."""
    return jax.random.fold_in(jax.random.key(seed), _INIT)


def fit(step: Step, task: Task, state: TrainState, *, seed: int, steps: int) -> Iterator[Taken]:
    """Takes steps from `state` on until `steps` have been taken in all, and yields each.

    Batch and key of a step follow from its number and `seed` alone. So a state that was saved
    and comes back goes on with the very bits of a run that was never broken:
    `fit` from the state after step k yields what `fit` from the start yields after step k.

    Args:
        step: From `make_step(task.loss, …, has_state=True)`.
        task: Where batches come from.
        state: Where to go on; `state.step` says how many steps it has behind it.
        seed: Decides batches and keys.
        steps: The number of the last step.
    """
    key = jax.random.fold_in(jax.random.key(seed), _STEPS)
    for number in range(int(state.step), steps):
        batch = task.batch(seed, number)
        state, metrics = step(state, batch, jax.random.fold_in(key, number))
        yield Taken(number + 1, state, metrics)


def first_divergence(rows: Sequence[Mapping[str, Any]], *, skipped: int = 0) -> int | None:
    """Index of the first row whose loss is NaN or Inf, unless a loss scaler skipped that step.

    Args:
        rows: Fetched metrics of consecutive steps.
        skipped: How many steps were skipped before the first of them.
    """
    for index, row in enumerate(rows):
        was_skipped = row.get("skipped", skipped) > skipped
        skipped = row.get("skipped", skipped)
        if not math.isfinite(row["loss"]) and not was_skipped:
            return index
    return None
