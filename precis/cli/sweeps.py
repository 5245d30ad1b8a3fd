"""The commands that make records and read them: `sweep`, `run`, `status`, `report`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from precis.cli.console import open_console

if TYPE_CHECKING:
    from rich.console import Console

    from precis.sweep import Outcome, Plan

Settings = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(name="set", metavar="KEY=VALUE"),
]


def sweep(
    file: tyro.conf.Positional[Path],
    *,
    dry_run: bool = False,
    settings: Settings = (),
    out: Path | None = None,
    workers: int | None = None,
    redo_stale: bool = False,
) -> int:
    """Run a sweep, or what is left of it, and report.

    Args:
        file: A TOML file, or a Python file that defines sweep().
        dry_run: Print the trials and their policies, and run nothing.
        settings: Change a key of the file, as recipe.learning_rate=1e-3 or task.text.steps=50;
            may be given more than once.
        out: Folder of the records; by default runs/NAME.
        workers: Worker processes; 0 runs all trials in this process. By default one a core,
            two at most.
        redo_stale: Run again what another version of precis finished.
    """
    from precis.sweep import cores, load_sweep, make_plan

    root = file.parent
    plan = make_plan(load_sweep(file, settings), root=root)
    if dry_run:
        return _show_plan(plan)
    return _launch(
        plan,
        out or Path("runs") / plan.sweep.name,
        file=file,
        root=root,
        workers=min(2, cores()) if workers is None else _at_least_0(workers),
        redo_stale=redo_stale,
    )


def run(
    task: tyro.conf.Positional[str],
    *,
    model: str | None = None,
    policy: str = "f32",
    steps: int = 100,
    seed: int = 0,
    settings: Settings = (),
    out: Path | None = None,
) -> int:
    """Run one trial in the foreground, and report.

    Args:
        task: digits, text, or a Python file that defines task().
        model: Which of the task's models.
        policy: A policy's text.
        steps: Steps of training.
        seed: Decides initialization and batches.
        settings: Change a key of the sweep of one trial that this is, as
            recipe.learning_rate=1e-3 or log_every=1; may be given more than once.
        out: Folder of the records; by default runs/run-TASK-POLICY.
    """
    from precis.sweep import make_plan, override, parse_sweep

    name = re.sub(r"[^\w.-]+", "_", f"run-{Path(task).stem}-{policy}")
    tables: dict[str, Any] = {
        "name": name,
        "task": [{"name": task, "steps": steps} | ({"model": model} if model else {})],
        "arm": [{"name": policy, "policy": policy}],
        "seeds": [seed],
    }
    sweep_of_one = parse_sweep(override(tables, settings), origin="precis run")
    root = Path()
    plan = make_plan(sweep_of_one, root=root)
    folder = out or Path("runs") / name
    return _launch(plan, folder, file=None, root=root, workers=0, redo_stale=False)


def status(folder: tyro.conf.Positional[Path]) -> int:
    """Say where each trial of a sweep stands.

    Args:
        folder: A sweep's folder.
    """
    from rich.table import Table

    from precis.sweep import is_held, read_plan, statuses

    plan, held = read_plan(folder), is_held(folder)
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "state", "step"):
        table.add_column(heading, overflow="fold")
    for name, found in statuses(folder, plan).items():
        # Nobody writes here, so nobody runs it: it was killed.
        state = "broken off" if found.state == "running" and not held else found.state
        table.add_row(name, state, f"{found.step}/{found.steps}" if found.steps else "–")
    console = open_console()
    console.print(table)
    console.print("a process is at work here" if held else "nobody is at work here", style="dim")
    return 0


def report(folder: tyro.conf.Positional[Path]) -> int:
    """Write a sweep's report.html and report.md from its records, and print the table.

    Args:
        folder: A sweep's folder.
    """
    _publish(folder, open_console(), force=True)
    return 0


def _launch(
    plan: Plan, folder: Path, *, file: Path | None, root: Path, workers: int, redo_stale: bool
) -> int:
    from precis.sweep import INTERRUPTED, launch

    console = open_console()
    try:
        outcome = launch(
            plan,
            folder,
            file=file,
            root=root,
            workers=workers,
            redo_stale=redo_stale,
            console=console,
        )
    except KeyboardInterrupt:
        return INTERRUPTED
    if outcome.done:
        _publish(folder, console, force=False)
    return _say_outcome(outcome, folder, console)


def _say_outcome(outcome: Outcome, folder: Path, console: Console) -> int:
    from precis.sweep import INTERRUPTED

    for name in outcome.failed:
        console.print(f"[red]failed[/] {folder / name / 'traceback.txt'}", highlight=False)
    if outcome.is_interrupted:
        console.print("interrupted; the same command resumes")
        return INTERRUPTED
    return 1 if outcome.failed else 0


def _publish(folder: Path, console: Console, *, force: bool) -> None:
    """Prints the report; writes its files too, if the records are newer."""
    from precis.report import show, write
    from precis.sweep import newest_record

    page = folder / "report.html"
    if force or not page.exists() or page.stat().st_mtime_ns < newest_record(folder):
        page, _ = write(folder)
    show(folder, console)
    console.print(f"report: {page}", soft_wrap=True, highlight=False)


def _show_plan(plan: Plan) -> int:
    from rich.markup import escape

    from precis.policy import read_policy

    console = open_console()
    for arm in plan.arms.values():
        mark = " (baseline)" if arm.name == plan.baseline else ""
        what = arm.given if arm.quantize else str(read_policy(arm.policy))
        console.print(f"[bold]{escape(arm.name)}[/]{mark} {escape(what)}", highlight=False)
    for planned in plan.trials:
        length = "quantized" if planned.trial.quantized else f"{planned.trial.steps} steps"
        console.print(f"  {planned.dir}  {length}", highlight=False)
    console.print(f"{len(plan.trials)} trials; nothing was run")
    return 0


def _at_least_0(workers: int) -> int:
    if workers < 0:
        raise ValueError(f"--workers is 0 or more, got {workers}")
    return workers
