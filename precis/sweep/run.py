"""One trial, from its first step or its last checkpoint to its summary."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from precis.sweep.journal import Journal
from precis.sweep.program import Program, first_state
from precis.sweep.status import State
from precis.sweep.store import checkpoints
from precis.sweep.store.metrics import read_rows
from precis.sweep.store.strict import write_json
from precis.sweep.summary import Clock, summarize
from precis.sweep.trial import Trial
from precis.train.fit import Taken, first_divergence, fit
from precis.train.state import TrainState
from precis.tree import nbytes


class Stretch(NamedTuple):
    """Steps between two looks at the device.

    Attributes:
        step: The number of the last of them.
        state: The state after it.
        rows: Their metrics, fetched, each with its `step`.
        seconds: How long they took.
        is_stopped: Whether a stop was asked for.
    """

    step: int
    state: TrainState
    rows: list[dict[str, Any]]
    seconds: float
    is_stopped: bool


def run_trial(
    folder: Path,
    trial: Trial,
    program: Program,
    *,
    checkpoint_every: int,
    journal: Journal,
    stop: Callable[[], bool],
) -> State:
    """Runs the trial in `folder` to its end, its divergence or a request to stop.

    Whatever was on disk before, metrics and summary (but for times) end as if the trial had
    never been broken off: a checkpoint is saved after all rows up to its step, and rows past it
    are dropped and written again.

    Args:
        folder: The trial's folder.
        trial: What to run.
        program: Its program, shared with other trials.
        checkpoint_every: Steps between checkpoints; 0 saves at the end only.
        journal: Writes the trial's status, rows and log.
        stop: Asked between steps; where it says yes, the state is saved first.

    Returns:
        `finished`, `diverged` or `interrupted`, as it was recorded.
    """
    with checkpoints.opened(folder / "checkpoints") as manager:
        state = first_state(program, trial)
        sizes = {"param_bytes": nbytes(state.params), "opt_bytes": nbytes(state.opt_state)}
        if (restored := checkpoints.restore(manager, state)) is not None:
            state = restored.state
        step = int(state.step)
        diverged_at: int | None = None
        step_ms: list[float] = []
        known = journal.resume(after=step)
        skipped = max((row.get("skipped", 0) for row in known), default=0)
        journal.say(f"resumes after step {step}" if step else "starts")
        journal.status("running", step)
        taken = fit(program.step, program.task, state, seed=trial.seed, steps=trial.steps)
        cadences = (trial.log_every, trial.eval_every, checkpoint_every)
        for stretch in _stretches(taken, trial.steps, cadences=cadences, stop=stop):
            step_ms.append(1e3 * stretch.seconds / len(stretch.rows))
            diverged_at = _record(stretch, trial, program, skipped=skipped, journal=journal)
            step, skipped = stretch.step, stretch.rows[-1].get("skipped", 0)
            if diverged_at is not None:
                break
            if stretch.is_stopped or _due(step, checkpoint_every, trial.steps):
                journal.settle()
                checkpoints.save(manager, step, stretch.state)
            if stretch.is_stopped and step < trial.steps:
                journal.say(f"interrupted after step {step}")
                journal.status("interrupted", step)
                return "interrupted"
            journal.status("running", step)
    clock = Clock(compile_s=step_ms[0] / 1e3 if step_ms else 0.0, step_ms=step_ms[1:])
    return _finish(
        folder, trial, program, clock=clock, sizes=sizes, diverged_at=diverged_at, journal=journal
    )


def _stretches(
    taken: Iterator[Taken], steps: int, *, cadences: tuple[int, ...], stop: Callable[[], bool]
) -> Iterator[Stretch]:
    """Groups steps so that each group ends where something is due, or where a stop is asked for.

    The first step stands alone: it compiles.
    """
    pending: list[tuple[int, dict[str, Any]]] = []
    is_first, began = True, time.perf_counter()
    for step, state, metrics in taken:
        pending.append((step, metrics))
        is_stopped = stop()
        if is_first or is_stopped or any(_due(step, every, steps) for every in cadences):
            fetched = jax.device_get(pending)
            rows = [_row(number, scalars) for number, scalars in fetched]
            yield Stretch(step, state, rows, time.perf_counter() - began, is_stopped)
            is_first, began = False, time.perf_counter()
            pending.clear()


def _row(number: int, scalars: dict[str, Any]) -> dict[str, Any]:
    # Whether the gradients were finite is what their norm says already.
    kept = {key: value.item() for key, value in scalars.items() if key != "finite"}
    return {"step": number, **kept}


def _due(step: int, every: int, steps: int) -> bool:
    return step == steps or (every > 0 and step % every == 0)


def _record(
    stretch: Stretch, trial: Trial, program: Program, *, skipped: int, journal: Journal
) -> int | None:
    """Writes down what is due of a stretch; gives the step at which the trial diverged, if so."""
    bad = first_divergence(stretch.rows, skipped=skipped)
    good = stretch.rows if bad is None else stretch.rows[: bad + 1]
    last = good[-1]["step"]
    diverged_at = None if bad is None else last
    logged = [
        row
        for row in good
        if row["step"] == diverged_at or _due(row["step"], trial.log_every, trial.steps)
    ]
    journal.rows(logged)
    if diverged_at is None and _due(last, trial.eval_every, trial.steps):
        params, state = stretch.state.params, stretch.state.state
        own = program.evaluate(params, state)
        is_same = program.evaluate is program.evaluate_f32
        f32 = own if is_same else program.evaluate_f32(params, state)
        journal.rows([{"step": last, "eval": {"own": own, "f32": f32}}])
        if not math.isfinite(own[program.task.metric[0]]):
            return last
    return diverged_at


def _finish(
    folder: Path,
    trial: Trial,
    program: Program,
    *,
    clock: Clock,
    sizes: dict[str, int],
    diverged_at: int | None,
    journal: Journal,
) -> State:
    steps = trial.steps if diverged_at is None else diverged_at
    summary = summarize(
        read_rows(journal.metrics),
        metric=program.task.metric[0],
        clock=clock,
        sizes=sizes,
        steps=steps,
        diverged_at=diverged_at,
    )
    write_json(folder / "summary.json", summary)
    state: State = "finished" if diverged_at is None else "diverged"
    journal.say(f"{state} at step {steps}")
    journal.status(state, steps)
    return state
