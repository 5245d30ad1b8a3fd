"""What trials share that differ only in seed: one task, one compiled step, one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from precis.doctor import Witness, compiled_roundings
from precis.optim import stored_params
from precis.policy import KEYS, read_policy
from precis.sweep.plan import task_path
from precis.sweep.trial import Trial
from precis.train.evaluate import make_evaluate
from precis.train.explain import audit_task
from precis.train.fit import init_key
from precis.train.optimizer import make_optimizer
from precis.train.state import TrainState
from precis.train.step import COMPILER_OPTIONS, Step, make_step
from precis.train.task import Task, load_task
from precis.types import PyTree
from precis.walk import Audit

Evaluate = Callable[[PyTree, PyTree], dict[str, float]]


@dataclass(frozen=True)
class Program:
    """A task under one policy and recipe, ready to run with any seed.

    Attributes:
        task: The task.
        init: Draws its initial parameters and state.
        start: From those and the trial's seed to the state before the first step.
        step: Its training step; compiles when it is first called.
        evaluate: Evaluation under the policy.
        evaluate_f32: Evaluation in float32.
        audit: What the walker says of the loss.
        witness: Whether this backend, compiling as the step is compiled, rounds as the policy says.
    """

    task: Task
    init: Callable[[Array], tuple[PyTree, PyTree]]
    start: Callable[[PyTree, PyTree, int], TrainState]
    step: Step
    evaluate: Evaluate
    evaluate_f32: Evaluate
    audit: Audit
    witness: Witness


@dataclass(frozen=True)
class Loaded:
    """A task, with what is the same for all policies.

    Attributes:
        task: The task.
        init: The task's `init`, compiled: one program, so that all policies get the same bits.
        evaluate_f32: Evaluation in float32.
    """

    task: Task
    init: Callable[[Array], tuple[PyTree, PyTree]]
    evaluate_f32: Evaluate


def load(trial: Trial, *, root: Path) -> Loaded:
    """The task of `trial`, its path counted from `root`.

    Raises:
        ValueError: No such task, model or option.
    """
    remat = trial.recipe.remat
    options = {**trial.options, **({"remat": remat} if remat else {})}
    task = load_task(task_path(trial.task, root), trial.model, **options)
    return Loaded(task, jax.jit(task.init), make_evaluate(task, "f32"))


def make_program(trial: Trial, loaded: Loaded) -> Program:
    """The program of `trial`, and of every trial that has the same `Trial.program`."""
    task, policy = loaded.task, read_policy(trial.policy)
    is_f32 = policy == read_policy("f32")
    step = training_step(trial, task)
    evaluate = loaded.evaluate_f32 if is_f32 else make_evaluate(task, policy)
    return Program(
        task=task,
        init=loaded.init,
        start=jax.jit(lambda params, state, seed: step.init(params, state, seed=seed)),
        step=step,
        evaluate=evaluate,
        evaluate_f32=loaded.evaluate_f32,
        audit=audit_task(task, policy, seed=trial.seed),
        witness=compiled_roundings(policy, COMPILER_OPTIONS),
    )


def training_step(trial: Trial, task: Task) -> Step:
    """The step that `trial` takes; nothing is compiled before it is called."""
    recipe = trial.recipe
    return make_step(
        task.loss,
        make_optimizer(recipe, trial.steps),
        read_policy(trial.policy),
        has_state=True,
        loss_scale=recipe.loss_scale,
        clip=recipe.clip,
        master=recipe.master,
        accumulate=recipe.accumulate,
        trainable=recipe.trainable,
        moments_keep=recipe.moments_keep,
        moments_min_size=recipe.moments_min_size,
    )


def first_state(program: Program, trial: Trial) -> TrainState:
    """The state before the first step: the same for all policies of a seed, but for its dtype."""
    params, state = program.init(init_key(trial.seed))
    if trial.perturb_ulp:
        params = stored_params(program.step.policy, params)
        params = moved_by_ulps(params, trial.perturb_ulp, seed=trial.seed)
    return program.start(params, state, trial.seed)


def moved_by_ulps(params: PyTree, count: int, *, seed: int) -> PyTree:
    """`params` with each float moved by `count` ulps of its dtype, up or down by a seeded coin.

    The neighbor of the largest float is Inf; zero moves to a subnormal, which backends that
    flush subnormals still read as zero.
    """
    coin = np.random.default_rng([seed, count])

    def move(leaf: Any) -> Any:
        if not jax.dtypes.issubdtype(leaf.dtype, np.floating):
            return leaf
        array = np.asarray(leaf)
        goal = np.where(coin.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
        for _ in range(count):
            array = np.nextafter(array, goal)
        return jax.numpy.asarray(array)

    return jax.tree.map(move, params)


def task_record(task: Task) -> dict[str, Any]:
    """`task.json`: what is known of a task once it is loaded."""
    metric, direction = task.metric
    return {"metric": metric, "direction": direction, "unit": task.unit, "facts": task.facts}


def policy_record(program: Program) -> dict[str, Any]:
    """`policy.json`: every role with its format and reason, and what of it is in force.

    Nothing is, where the compiler leaves out roundings.
    """
    found, witness = program.audit, program.witness
    notes = list(found.notes)
    reduce = next(role for role in found.policy.roles() if role.key == "r")
    if reduce.reason == "given":
        notes.append(f"r={reduce.format} changes nothing: a trial's gradients stay on one device")
    if not witness.holds:
        notes.append(
            f"this backend's compiler leaves out roundings of {found.policy}: "
            f"{witness.differing} of {witness.compared} values of the witness program differ"
        )
    return {
        "policy": str(found.policy),
        "roles": [
            {"key": role.key, "role": role.name, "format": role.format, "reason": role.reason}
            for role in found.policy.roles()
        ],
        "rules": [
            {"pattern": rule.pattern, "key": key, "role": KEYS[key], "format": str(fmt)}
            for rule in found.policy.rules
            for key, fmt in rule.formats
        ],
        "in_force": found.in_force if witness.holds else 0.0,
        "witness": {"differing": witness.differing, "compared": witness.compared},
        "pinned": found.pinned,
        "matrix_flops": found.flops,
        "emulated": found.emulated,
        "notes": notes,
    }
