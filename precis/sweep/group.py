"""The trials of one program, one after the other in this process, compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from precis.sweep.journal import Journal, drop_results
from precis.sweep.program import (
    Loaded,
    Program,
    load,
    make_program,
    policy_record,
    task_record,
)
from precis.sweep.run import run_trial
from precis.sweep.run_quantized import Shared, run_quantized
from precis.sweep.status import is_done, read_plan, read_status
from precis.sweep.store.strict import canonical, read_json, write_json
from precis.sweep.trial import Trial, from_json


@dataclass(frozen=True)
class Bench:
    """What a process that runs trials holds on to.

    Attributes:
        folder: The sweep's folder.
        root: Where the paths of tasks are counted from.
        checkpoint_every: Steps between checkpoints.
        fingerprint: Of the code that runs here.
        sources: Folders of trials by digest, for those that quantize what they trained.
        stop: Says whether a stop was asked for.
        capture: Where what libraries print goes while a trial runs, given its log.
        loaded: Tasks that were loaded, by what they were loaded from.
    """

    folder: Path
    root: Path
    checkpoint_every: int
    fingerprint: str
    sources: Mapping[str, Path]
    stop: Callable[[], bool]
    capture: Callable[[Path], AbstractContextManager[Any]]
    loaded: MutableMapping[str, Loaded] = field(default_factory=dict)


def make_bench(
    folder: Path,
    *,
    fingerprint: str,
    stop: Callable[[], bool],
    capture: Callable[[Path], AbstractContextManager[Any]] = nullcontext,
) -> Bench:
    """A bench for the sweep in `folder`, from its `plan.json`."""
    plan = read_plan(folder)
    return Bench(
        folder,
        Path(plan["root"]),
        plan["checkpoint_every"],
        fingerprint,
        sources={entry["digest"]: folder / entry["dir"] for entry in plan["trials"]},
        stop=stop,
        capture=capture,
    )


def run_group(bench: Bench, dirs: Iterable[str]) -> None:
    """Runs the trials in `dirs`, which share a program, until all are done or a stop is asked for.

    A trial that raises is recorded as failed, with its traceback, and the next one runs.
    """
    program: Program | None = None
    shared: Shared | None = None
    for name in dirs:
        folder = bench.folder / name
        if bench.stop():
            return
        if is_done(folder):
            continue
        _drop_if_stale(folder, bench.fingerprint)
        trial = from_json(read_json(folder / "config.json"))
        journal = Journal(folder, trial.steps, bench.fingerprint)
        journal.status("running", 0)
        with bench.capture(folder / "log.txt"):
            try:
                loaded = _loaded(bench, trial)
                if trial.quantized:
                    source = bench.sources[trial.quantized.source]
                    shared = run_quantized(
                        folder, trial, loaded, source=source, shared=shared, journal=journal
                    )
                else:
                    program = program or make_program(trial, loaded)
                    _describe(folder, program, journal)
                    run_trial(
                        folder,
                        trial,
                        program,
                        checkpoint_every=bench.checkpoint_every,
                        journal=journal,
                        stop=bench.stop,
                    )
            # Whatever a task or a policy raises is this trial's result, and must not end others'.
            except Exception as error:
                journal.failed(read_status(folder).step, error)


def _drop_if_stale(folder: Path, fingerprint: str) -> None:
    """A trial begun by other code cannot be resumed: it would be neither's result."""
    before = read_status(folder).fingerprint
    if before and before != fingerprint:
        drop_results(folder)


def _loaded(bench: Bench, trial: Trial) -> Loaded:
    source = canonical([trial.task, trial.model, dict(trial.options), trial.recipe.remat])
    if source not in bench.loaded:
        bench.loaded[source] = load(trial, root=bench.root)
    return bench.loaded[source]


def _describe(folder: Path, program: Program, journal: Journal) -> None:
    """Records what the trial is about to run: the task as loaded, the policy as resolved."""
    write_json(folder / "task.json", task_record(program.task))
    record = policy_record(program)
    write_json(folder / "policy.json", record)
    roles = " ".join(f"{r['key']}={r['format']} ({r['reason']})" for r in record["roles"])
    journal.say(f"policy {record['policy']}: {roles}; {record['in_force']:.1%} in force")
