"""What the terminal shows while a sweep runs, read from the trials' files alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from precis.sweep.status import DONE, Status, last_loss, read_status
from precis.sweep.store.strict import read_json

_TICK_S = 0.25


@dataclass
class _Seen:
    """What was shown of a trial so far."""

    arm: tuple[str, str]
    is_told: bool = False
    is_over: bool = False
    first: tuple[float, int] | None = None
    status: Status = field(default_factory=Status)

    @property
    def rate(self) -> float | None:
        """Steps a second since it was first seen to move."""
        if self.first is None or self.status.step <= self.first[1]:
            return None
        return (self.status.step - self.first[1]) / (time.monotonic() - self.first[0])


@contextmanager
def watching(
    console: Console,
    folder: Path,
    entries: Sequence[Mapping[str, Any]],
    *,
    on_start: Callable[[], None],
) -> Iterator[None]:
    """Shows the trials of `entries` (of `plan.json`) while the block runs.

    Each start is a line with the resolved policy, each end a line with the result; on a terminal
    a table of the running trials stands below.

    Args:
        console: Where to.
        folder: The sweep's folder.
        entries: The trials that are to run.
        on_start: Called after a trial started: its task is known from then on.
    """
    seen = {entry["dir"]: _Seen((entry["task"], entry["arm"])) for entry in entries}
    over = threading.Event()

    def look(live: Live | None) -> None:
        for entry in entries:
            _look_at(console, folder, entry, seen, on_start=on_start)
        if live is not None:
            live.update(_table(folder, entries, seen))

    def watch() -> None:
        if not console.is_terminal:
            while not over.wait(_TICK_S):
                look(None)
        else:
            with Live(console=console, transient=True, auto_refresh=False) as live:
                while not over.wait(_TICK_S):
                    look(live)
                    live.refresh()
        look(None)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def compact_roles(record: Mapping[str, Any]) -> list[str]:
    """A policy's roles, a line a format: `bf16: p c o (given), k g x (as c)`."""
    formats: dict[str, dict[str, list[str]]] = {}
    for role in record.get("roles", ()):
        formats.setdefault(role["format"], {}).setdefault(role["reason"], []).append(role["key"])
    return [
        f"{name}: " + ", ".join(f"{' '.join(keys)} ({reason})" for reason, keys in reasons.items())
        for name, reasons in formats.items()
    ]


def _look_at(
    console: Console,
    folder: Path,
    entry: Mapping[str, Any],
    seen: dict[str, _Seen],
    *,
    on_start: Callable[[], None],
) -> None:
    mine, here = seen[entry["dir"]], folder / entry["dir"]
    if mine.is_over:
        return
    before, mine.status = mine.status, read_status(here)
    status = mine.status
    # From its second look on: the first steps wait for the compiler.
    if mine.first is None and status.step > before.step and before.state == "running":
        mine.first = (time.monotonic(), status.step)
    record = read_json(here / "policy.json") if status.state != "pending" else {}
    if record and not mine.is_told:
        told_before = any(other.is_told and other.arm == mine.arm for other in seen.values())
        mine.is_told = True
        on_start()
        console.print(f"[bold]▶ {_name(entry)}[/] {escape(record['policy'])}", highlight=False)
        if not told_before:
            notes = [f"note: {note}" for note in record["notes"]]
            for line in compact_roles(record) + notes:
                console.print(Padding(Text(line, style="dim"), (0, 0, 0, 4)))
    if status.state in (*DONE, "failed", "interrupted"):
        mine.is_over = True
        console.print(_ending(here, entry, status), highlight=False)


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['task']} {entry['arm']} seed {entry['seed']}"


def _ending(here: Path, entry: Mapping[str, Any], status: Status) -> str:
    match status.state:
        case "finished":
            task, summary = read_json(here / "task.json"), read_json(here / "summary.json")
            name, unit = task.get("metric", "metric"), task.get("unit", "")
            return f"[green]✓[/] {_name(entry)} {name} {_short(summary.get('metric'))} {unit}"
        case "diverged":
            return f"[magenta]∞[/] {_name(entry)} diverged at step {status.step}"
        case "failed":
            return f"[red]✗[/] {_name(entry)} failed: {escape(status.error or '')}"
        case _:
            return f"[yellow]‖[/] {_name(entry)} saved at step {status.step}"


def _table(folder: Path, entries: Sequence[Mapping[str, Any]], seen: dict[str, _Seen]) -> Table:
    title = f"{sum(mine.is_over for mine in seen.values())} of {len(seen)} done"
    table = Table(box=None, pad_edge=False, title_justify="left", title=title)
    for heading in ("trial", "step", "steps/s", "loss", "left"):
        table.add_column(heading, justify="left" if heading == "trial" else "right", no_wrap=True)
    for entry in entries:
        mine = seen[entry["dir"]]
        if mine.is_over or mine.status.state != "running":
            continue
        step, steps, rate = mine.status.step, mine.status.steps, mine.rate
        table.add_row(
            _name(entry),
            f"{step}/{steps}",
            f"{rate:.1f}" if rate else "–",
            _short(last_loss(folder / entry["dir"])),
            f"{(steps - step) / rate:.0f} s" if rate else "–",
        )
    return table


def _short(value: float | str | None) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else str(value or "–")
