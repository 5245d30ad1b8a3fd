"""Evaluation of a task, under a policy or by a function of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from precis.optim import stored_params
from precis.policy import Policy, PolicyRules, read_policy
from precis.train.step import COMPILER_OPTIONS
from precis.train.task import Task
from precis.types import PyTree
from precis.walk import autocast


def make_evaluate(
    task: Task, policy: PolicyRules | Policy | str
) -> Callable[[PyTree, PyTree], dict[str, float]]:
    """A function that evaluates parameters on all of a task's evaluation batches.

    Parameters are first stored as the policy says, so that weights trained in few bits can be
    judged in float32 and the other way round; codes and scales stay such. Stochastic roles draw
    the same bits at each call, so that equal parameters have equal figures.

    Args:
        task: What to evaluate; its batches weigh alike.
        policy: What to evaluate under.

    Returns:
        `evaluate(params, state)` gives the mean of the loss and of each of the task's metrics,
        named `eval_loss`, `eval_<metric>`, as Python floats (the mean is taken in float64).
    """
    resolved = read_policy(policy)
    rounding_key = jax.random.key(0)

    def measure(params: PyTree, state: PyTree, batch: PyTree) -> dict[str, Array]:
        loss, (_, metrics) = autocast(task.loss, resolved, state_argnums=1, key=rounding_key)(
            params, state, batch, key=None, train=False
        )
        return {"loss": loss, **metrics}

    averaged = averaging(task, measure)
    return lambda params, state: averaged(stored_params(resolved, params), state)


def metrics_of(task: Task) -> Callable[[PyTree, PyTree, PyTree], dict[str, Array]]:
    """The task's loss and metrics, by name, as a function of parameters, state and batch."""

    def measure(params: PyTree, state: PyTree, batch: PyTree) -> dict[str, Array]:
        loss, (_, metrics) = task.loss(params, state, batch, key=None, train=False)
        return {"loss": loss, **metrics}

    return measure


def averaging(
    task: Task, measure: Callable[[Any, PyTree, PyTree], dict[str, Array]]
) -> Callable[[Any, PyTree], dict[str, float]]:
    """A function that takes the mean of `measure` over a task's evaluation batches.

    Args:
        task: Whose batches; they weigh alike.
        measure: Scalars by name, of parameters, state and a batch; it is compiled once.

    Returns:
        `evaluate(params, state)`, as of `make_evaluate`.
    """
    jitted = jax.jit(measure, compiler_options=COMPILER_OPTIONS)

    def evaluate(params: Any, state: PyTree) -> dict[str, float]:
        rows = [jitted(params, state, batch) for batch in task.eval_batches()]
        fetched = jax.device_get(rows)
        return {
            f"eval_{name}": float(np.mean([np.float64(row[name]) for row in fetched]))
            for name in fetched[0]
        }

    return evaluate
