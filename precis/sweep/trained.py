"""`load_trained`: the task and the parameters of a trial that was run, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from precis.sweep.program import first_state, load, make_program
from precis.sweep.status import read_plan
from precis.sweep.store import checkpoints
from precis.sweep.store.strict import read_json
from precis.sweep.trial import Trial, from_json
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
    if not (folder / "checkpoints").is_dir():
        raise ValueError(f"{folder} has no checkpoints: the trial has not come to its first one")
    trial = from_json(config)
    loaded = load(trial, root=Path(read_plan(folder.resolve().parent)["root"]))
    template = first_state(make_program(trial, loaded), trial)
    with checkpoints.opened(folder / "checkpoints") as manager:
        restored = checkpoints.restore(manager, template)
    if restored is None:
        raise ValueError(f"{folder} has no checkpoint that is complete")
    return Trained(trial, loaded.task, restored.step, restored.state.params, restored.state.state)
