"""The table's figures as text, each with its small print, aligned down their column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from precis.report.rows import Row, TaskTable
from precis.report.words import (
    NOTHING,
    byte_unit,
    decimals,
    in_unit,
    number,
    percent,
    times,
)
from precis.stats import Estimate


class Cell(NamedTuple):
    """One figure.

    Attributes:
        main: The figure.
        sub: Its spread, its ratio to the baseline, or what it counts; may be empty.
    """

    main: str
    sub: str = ""


class Column(NamedTuple):
    """One column of the table.

    Attributes:
        title: What it shows.
        note: Its unit or how to read it; may be empty.
        cells: One a row of the table.
    """

    title: str
    note: str
    cells: tuple[Cell, ...]


def columns(table: TaskTable) -> dict[str, Column]:
    """The columns by key: own, f32, gap, floor, in_force, bytes, step, skipped, seeds."""
    rows, task = table.rows, table.task
    aim = "lower is better" if task.direction == "min" else "higher is better"
    # The noise floor is far smaller than what it measures; its digits would crowd the others'.
    gap_places = _places([row.gap for row in rows if row.part == "arm"] or [None])
    if table.tolerance:
        # A hundredth of what matters is fine enough.
        gap_places = min(gap_places, max(0, 2 - math.floor(math.log10(table.tolerance))))
    # Seeds differ more than arms do, so it is the gaps that say how many decimals matter.
    arms = [row for row in rows if row.part != "noise floor"]
    places = max(gap_places, _places([e for row in arms for e in (row.own, row.f32)]))
    return {
        "own": Column(task.metric, aim, tuple(_estimate(row.own, places) for row in rows)),
        "f32": Column("in f32", "same weights", tuple(_estimate(row.f32, places) for row in rows)),
        "gap": Column(
            "paired gap",
            task.unit,
            tuple(_estimate(row.gap, gap_places, signed=True) for row in rows),
        ),
        "floor": Column(
            "vs noise",
            "floor = 1×",
            tuple(Cell(_multiple(row)) for row in rows),
        ),
        "in_force": Column("in force", "of FLOPs", tuple(Cell(percent(r.in_force)) for r in rows)),
        "bytes": _bytes(table),
        "step": _step(table),
        "skipped": Column("skipped", "steps", tuple(_skipped(row) for row in rows)),
        "seeds": Column("seeds", "ended", tuple(_seeds(row) for row in rows)),
    }


def _estimate(estimate: Estimate | None, places: int, *, signed: bool = False) -> Cell:
    if estimate is None:
        return Cell(NOTHING)
    spread = f"±{number(estimate.interval().half_width, places)}" if estimate.n > 1 else "one seed"
    return Cell(number(estimate.mean, places, signed=signed), spread)


def _multiple(row: Row) -> str:
    """Beyond a thousand, how many times the noise no longer matters."""
    if row.gap is None or row.floor_multiple is None:
        return NOTHING
    return times(row.floor_multiple) if row.floor_multiple < 1000 else ">999×"


def _places(estimates: Sequence[Estimate | None]) -> int:
    known = [estimate for estimate in estimates if estimate]
    halves = [estimate.interval().half_width for estimate in known]
    return decimals(halves, [estimate.mean for estimate in known])


def _bytes(table: TaskTable) -> Column:
    unit = byte_unit(size for row in table.rows for size in (row.param_bytes, row.opt_bytes))
    base = table.baseline
    cells = []
    for row in table.rows:
        if row.bytes is None:
            cells.append(Cell(NOTHING))
            continue
        beside = row.bytes_beside(base) if base and row.part == "arm" else None
        parts = [row.param_bytes] if row.arm.quantize else [row.param_bytes, row.opt_bytes]
        told = " + ".join(in_unit(part, unit) for part in parts)
        cells.append(Cell(told, times(beside) if beside is not None else ""))
    return Column("params + opt", unit[1], tuple(cells))


def _step(table: TaskTable) -> Column:
    medians = [row.step_ms.median for row in table.rows if row.step_ms]
    # Three significant digits of the slowest.
    places = 0 if not medians else 2 if max(medians) < 10 else 1 if max(medians) < 100 else 0
    base = table.baseline.step_ms if table.baseline else None
    cells = []
    for row in table.rows:
        time = row.step_ms
        if time is None:
            cells.append(Cell("emulated" if row.arm.emulated else NOTHING))
            continue
        ratio = f"{times(time.median / base.median)} · " if base and row.part == "arm" else ""
        spread = f"{number(time.p10, places)}–{number(time.p90, places)}"
        cells.append(Cell(number(time.median, places), ratio + spread))
    return Column("ms a step", "p10–p90", tuple(cells))


def _skipped(row: Row) -> Cell:
    if not row.taken:
        return Cell(NOTHING)
    return Cell(str(row.skipped), percent(row.skipped / row.taken) if row.skipped else "")


def _seeds(row: Row) -> Cell:
    """How many of the planned seeds have a result, and what became of the others."""
    ended = row.in_state("finished", "diverged")
    rest = [
        f"{len(found)} {word}"
        for word, states in (
            ("diverged", ("diverged",)),
            ("failed", ("failed",)),
            ("to come", ("pending", "running", "interrupted")),
        )
        if (found := row.in_state(*states))
    ]
    return Cell(f"{len(ended)} of {len(row.trials)}", ", ".join(rest))
