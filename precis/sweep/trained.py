"""`load_trained`: the task and the parameters of a trial that was run, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from precis.quant import dequantize
from precis.sweep.program import load, training_step
from precis.sweep.status import read_plan
from precis.sweep.store import checkpoints
from precis.sweep.store.strict import read_json
from precis.sweep.trial import Trial, from_json
from precis.train.fit import init_key
from precis.train.state import TrainState
from precis.train.task import Task
from precis.types import PyTree


class Trained(NamedTuple):
    """What a trial has come to.

    Attributes:
        trial: The trial.
        task: Its task.
        step: How many steps had been taken.
        params: Its parameters, as they were stored.
        state: What its model carries beside them.
    """

    trial: Trial
    task: Task
    step: int
    params: PyTree
    state: PyTree

    @property
    def floats(self) -> PyTree:
        """Its parameters as arrays of floats, those that are stored in codes as these stand for."""
        return dequantize(self.params)


def load_trained(folder: Path) -> Trained:
    """The newest state of the trial in `folder`, `runs/NAME/TRIAL` as a sweep wrote it.

    Raises:
        ValueError: No trial, or one of which no state was saved.
    """
    config = read_json(folder / "config.json")
    if not config:
        there = ", ".join(sorted(path.parent.name for path in folder.glob("*/config.json"))[:3])
        raise ValueError(
            f"{folder} holds no trial: a folder with config.json and checkpoints is wanted"
            f"{f', such as {there} in it' if there else ''}"
        )
    trial = from_json(config)
    if trial.quantized:
        raise ValueError(f"{folder} is quantized: the trial of which it is made has the weights")
    if not (folder / "checkpoints").is_dir():
        raise ValueError(f"{folder} has no checkpoints: the trial has not come to its first one")
    loaded = load(trial, root=Path(read_plan(folder.resolve().parent)["root"]))
    return restore_trained(folder, trial, loaded.task)


def restore_trained(folder: Path, trial: Trial, task: Task) -> Trained:
    """The newest state of `trial`, which ran in `folder`.

    Raises:
        ValueError: No state was saved, or one of another trial.
    """
    with checkpoints.opened(folder / "checkpoints") as manager:
        restored = checkpoints.restore(manager, _template(trial, task))
    if restored is None:
        raise ValueError(f"{folder} has no checkpoint that is complete")
    return Trained(trial, task, restored.step, restored.state.params, restored.state.state)


def _template(trial: Trial, task: Task) -> TrainState:
    """What a state of the trial looks like, as shapes; keys are keys, as shapes tell no kind."""
    step = training_step(trial, task)
    shapes = jax.eval_shape(
        lambda key: step.init(*task.init(key), seed=trial.seed), init_key(trial.seed)
    )

    def filled(leaf: jax.ShapeDtypeStruct) -> Any:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.numpy.broadcast_to(jax.random.key(0), leaf.shape) if is_key else leaf

    return jax.tree.map(filled, shapes)
