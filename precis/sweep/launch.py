"""A plan into a folder: what is finished is skipped, the rest runs, the record is completed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from precis.policy import read_policy
from precis.sweep.engine import Order, run_here, run_in_workers
from precis.sweep.environment import fingerprint
from precis.sweep.journal import drop_results
from precis.sweep.plan import Plan, Planned
from precis.sweep.progress import watching
from precis.sweep.record import plan_record
from precis.sweep.signals import stop_requests
from precis.sweep.status import is_done, read_status, write_status
from precis.sweep.store.lock import one_writer
from precis.sweep.store.strict import canonical, read_json, write_json
from precis.sweep.trial import as_record

# An emulated format rounds on the bits, which takes a few times a native dtype's time. It only
# decides which group starts first.
_EMULATION = 4


class Outcome(NamedTuple):
    """How a sweep went.

    Attributes:
        done: Trials that have a result, skipped ones included.
        failed: Folders of the trials that raised.
        is_interrupted: Whether trials are left over because a stop was asked for.
    """

    done: int
    failed: tuple[str, ...]
    is_interrupted: bool


def launch(
    plan: Plan,
    folder: Path,
    *,
    file: Path | None,
    root: Path,
    workers: int,
    redo_stale: bool,
    console: Console,
) -> Outcome:
    """Runs what is left of `plan` in `folder`.

    Args:
        plan: From `make_plan`.
        folder: Where its records go; what is there of the same trials is kept.
        file: The sweep file, to be copied; None if there is none.
        root: Where the paths of tasks are counted from.
        workers: How many worker processes; 0 runs everything in this one.
        redo_stale: Whether to do again what other versions of precis finished.
        console: Where progress goes.

    Raises:
        BlockingIOError: Another process is writing to the folder.
    """
    with stop_requests(insist=True) as asked, one_writer(folder) as lock:
        mark = fingerprint()
        record = _write_plan(plan, folder, file=file, root=root)
        _check_stale(plan, folder, mark=mark, redo=redo_stale, console=console)
        todo = [planned for planned in plan.trials if not is_done(folder / planned.dir)]
        if skipped := len(plan.trials) - len(todo):
            console.print(f"{skipped} of {len(plan.trials)} trials have their result already")
        if todo:
            for planned in todo:
                _prepare(folder / planned.dir, planned)
            order = Order(folder, _waves(todo), mark, lock)
            entries = [entry for entry in record["trials"] if entry["dir"] in {p.dir for p in todo}]
            with watching(console, folder, entries, on_start=lambda: _complete(folder)):
                if workers == 0:
                    run_here(order, stop=asked.is_set)
                else:
                    run_in_workers(order, workers=workers, stop=asked.is_set)
        _complete(folder)
    states = {p.dir: read_status(folder / p.dir).state for p in plan.trials}
    failed = tuple(name for name, state in states.items() if state == "failed")
    done = sum(is_done(folder / name) for name in states)
    return Outcome(done, failed, asked.is_set() and done + len(failed) < len(states))


def _write_plan(plan: Plan, folder: Path, *, file: Path | None, root: Path) -> dict[str, Any]:
    old = read_json(folder / "plan.json")
    record = plan_record(plan, root=root, old=old)
    if record != old:
        write_json(folder / "plan.json", record)
    if file is not None:
        copy = folder / f"sweep{file.suffix}"
        if not copy.exists() or copy.read_bytes() != file.read_bytes():
            shutil.copyfile(file, copy)
    return record


def _check_stale(plan: Plan, folder: Path, *, mark: str, redo: bool, console: Console) -> None:
    def is_stale(planned: Planned) -> bool:
        here = folder / planned.dir
        return is_done(here) and read_status(here).fingerprint != mark

    stale = {planned.digest: planned.dir for planned in plan.trials if is_stale(planned)}
    if not stale:
        return
    if redo:
        # What was made of a stale trial is none of the new one's, whoever made it.
        made = [
            p.dir for p in plan.trials if p.trial.quantized and p.trial.quantized.source in stale
        ]
        for name in (*stale.values(), *made):
            drop_results(folder / name)
    else:
        console.print(
            f"[yellow]{len(stale)} finished trials were run by another version of precis; "
            "--redo-stale runs them again[/]"
        )


def _prepare(folder: Path, planned: Planned) -> None:
    write_json(folder / "config.json", as_record(planned.trial))
    before = read_status(folder)
    write_status(folder, before._replace(state="pending", steps=planned.trial.steps, error=None))


def _waves(todo: Sequence[Planned]) -> list[list[list[str]]]:
    """What trains, then what quantizes what was trained; the latter may be all that is left."""
    trained = [planned for planned in todo if planned.trial.quantized is None]
    quantized = [planned for planned in todo if planned.trial.quantized is not None]
    return [_groups(wave) for wave in (trained, quantized) if wave]


def _groups(todo: Sequence[Planned]) -> list[list[str]]:
    """Folders by program, the heaviest group first: what is started last should be short."""
    groups: dict[tuple[str, str], list[Planned]] = {}
    for planned in todo:
        groups.setdefault((planned.task, planned.trial.program), []).append(planned)

    def weight(group: list[Planned]) -> int:
        factor = _EMULATION if read_policy(group[0].trial.policy).is_emulated else 1
        return sum(planned.trial.steps for planned in group) * factor

    ordered = sorted(groups.values(), key=weight, reverse=True)
    return [[planned.dir for planned in group] for group in ordered]


def _complete(folder: Path) -> None:
    """Puts into the plan what is known of a task once one of its trials has loaded it."""
    record = read_json(folder / "plan.json")
    before = canonical(record)
    for entry in record["trials"]:
        task = record["tasks"][entry["task"]]
        if task["metric"] is None:
            task.update(read_json(folder / entry["dir"] / "task.json"))
    if canonical(record) != before:
        write_json(folder / "plan.json", record)
