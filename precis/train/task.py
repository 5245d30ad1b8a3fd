"""`Task`: what is trained and how it is judged; and how a task is found by its name.

Knows no jax: a sweep is planned, and its trials are named, before anything computes.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from precis.types import PyTree, did_you_mean

# Each lives in a file of its own, whose function of the same name makes it.
BUILT_IN = ("digits", "text")


class Task(Protocol):
    """A problem with its model and its data.

    All of it is pure: the same arguments give the same bits, whenever and wherever asked.
    """

    @property
    def name(self) -> str:
        """What the task is called in a sweep's folder."""
        ...

    @property
    def metric(self) -> tuple[str, Literal["min", "max"]]:
        """The figure that decides, and which way is better.

        As an evaluation names it: `eval_loss`, or `eval_accuracy` for the metric `accuracy`.
        """
        ...

    @property
    def unit(self) -> str:
        """The unit of that metric, as a report prints it."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What a record should say of the data (JSON): its size, its split, its digests."""
        ...

    def init(self, key: Any) -> tuple[PyTree, PyTree]:
        """Parameters and state, drawn from `key`, as float32."""
        ...

    def batch(self, seed: int, step: int) -> PyTree:
        """The training batch of step `step`, the same for each policy."""
        ...

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, *, key: Any, train: bool
    ) -> tuple[Any, tuple[PyTree, dict[str, Any]]]:
        """The loss, a float32 scalar, and (the state afterwards, scalar metrics by name).

        Plain JAX, as if all were float32: which numbers it runs in is the policy's to say.
        Without `train`, `key` may be None.
        """
        ...

    def eval_batches(self) -> Sequence[PyTree]:
        """Batches of one size, over which loss and metrics are averaged; never trained on."""
        ...


def load_task(name: str, model: str | None = None, **options: Any) -> Task:
    """The task called `name`.

    Args:
        name: A built-in task (`digits`, `text`), or the path of a Python file that defines
            `task(**options) -> Task`.
        model: Which of the task's models; None is its first.
        **options: What the task's function takes, such as `batch_size`.

    Raises:
        ValueError: No such task, model or option; the message has the nearest there is.
    """
    make = _function_of_file(Path(name)) if _is_file(name) else _built_in(name)
    given = options if model is None else {"model": model, **options}
    parameters = inspect.signature(make).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for option in given:
        if option not in parameters and not takes_any:
            has = did_you_mean(option, parameters) if parameters else ", nor any other"
            raise ValueError(f"task {name!r} has no option {option!r}{has}")
    return make(**given)


def task_source(name: str) -> bytes:
    """The bytes of the file that defines the task, for digests; jax is not imported.

    Raises:
        ValueError: No such task.
    """
    path = Path(name) if _is_file(name) else Path(__file__).parent / "tasks" / f"{_known(name)}.py"
    return _existing(path).read_bytes()


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _known(name: str) -> str:
    if name not in BUILT_IN:
        raise ValueError(
            f"no task {name!r}{did_you_mean(name, BUILT_IN)}; "
            "a task of your own is the path of a .py file that defines task()"
        )
    return name


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no task file {path} (relative paths start at {Path.cwd()})")
    return path


def _built_in(name: str) -> Callable[..., Task]:
    return getattr(importlib.import_module(f"precis.train.tasks.{_known(name)}"), name)


def _function_of_file(path: Path) -> Callable[..., Task]:
    # Named by its path, so that it hides no module that is installed; and registered, since
    # dataclasses look up the module that they are defined in.
    name = str(_existing(path).resolve())
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file that can be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    make = getattr(module, "task", None)
    if not callable(make):
        raise ValueError(f"{path} must define task(**options), which returns a Task")
    return make
