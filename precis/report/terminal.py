"""The report in a terminal, eighty columns wide or more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from precis.report.answer import badge, detail
from precis.report.assemble import Report, Section
from precis.report.cells import Cell, columns
from precis.report.facts import header, quantized_note, recipe_text, task_facts, value_text
from precis.report.rows import Row
from precis.stats import Kind

_STYLES: dict[Kind | str, str] = {
    "within tolerance": "green",
    "better": "blue",
    "worse": "bold yellow",
    "diverges": "bold red",
}
# Eighty columns hold one half of the figures; quality first, then what it costs.
_QUALITY = ("own", "f32", "gap", "floor")
_LONGEST_WORDS = ("inconclusive", "tolerance")
_COST = ("in_force", "bytes", "step", "skipped", "seeds")


def print_report(report: Report, console: Console) -> None:
    """Prints the answer, the tables and the reasons for each task; the curves are on the page."""
    store = report.store
    console.print(Text(store.name, "bold"), Text(header(store), "dim"), sep="  ", soft_wrap=False)
    for warning in report.warnings:
        console.print(_code(f"! {warning}", "yellow"))
    for section in report.sections:
        console.print()
        console.print(Text(section.table.task.label, "bold underline"))
        console.print(_code(section.answer.lead, "bold"))
        console.print(_quality(section))
        console.print(_details(section))
        console.print(_cost(section))
        console.print(_footnotes(section, store.environment))
        console.print(_why(section))


def _quality(section: Section) -> Table:
    table = _table()
    table.add_column(Text("verdict"), ratio=1, min_width=max(map(len, _LONGEST_WORDS)))
    shown = columns(section.table)
    for key in _QUALITY:
        # The metric's own name may be long; it stands below, among the facts.
        title = "own policy" if key == "own" else shown[key].title
        table.add_column(Text(title), justify="right", no_wrap=True)
    for place, row in enumerate(section.table.rows):
        kind = badge(row)
        cells = (_stack(shown[key].cells[place]) for key in _QUALITY)
        table.add_row(_name(row) + _made_of(row), Text(kind, _STYLES.get(kind, "dim")), *cells)
    return table


def _details(section: Section) -> Text:
    """What each verdict says beyond its word: by how much, how often, how many seeds it wants."""
    rows = [(row.arm.name, detail(section.table, row)) for row in section.table.judged]
    return Text("\n").join(
        Text.assemble((name, "bold"), f": {small}") for name, small in rows if small
    )


def _cost(section: Section) -> Table:
    table = _table()
    shown = columns(section.table)
    for key in _COST:
        head = _stack(Cell(shown[key].title, shown[key].note))
        table.add_column(head, justify="right", no_wrap=key != _COST[-1])
    for place, row in enumerate(section.table.rows):
        table.add_row(_name(row), *(_stack(shown[key].cells[place]) for key in _COST))
    return table


def _table() -> Table:
    """A table without frame whose first column holds the arms."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column(Text("arm"), overflow="fold", min_width=12, max_width=16)
    return table


def _name(row: Row) -> Text:
    return Text(row.arm.name, "bold" if row.part == "arm" else "dim")


def _made_of(row: Row) -> Text:
    """What a quantized arm is, on lines of its own: `w8a8 of f32`, and `smooth=0.5`."""
    told = [row.arm.given, recipe_text(row.arm)] if row.arm.quantize else []
    return Text("".join(f"\n{part}" for part in told if part), "dim")


def _footnotes(section: Section, environment: Mapping[str, Any]) -> Text:
    flags = value_text(environment.get("compiler_options") or {})
    facts = [*task_facts(section.table)[:4], ("compiler options", flags)]
    told = "; ".join(f"{key}: {value}" for key, value in facts)
    return Text(
        f"± half of the 95% interval over seeds; gaps are paired by seed; {told}. "
        "Step times are taken while other trials run beside; they are no benchmark. "
        f"{quantized_note(section.table)}".rstrip(),
        "dim",
    )


def _why(section: Section) -> Group:
    lines: list[Padding | Text] = []
    for name, texts in section.findings:
        lines.append(Text(f"\n{name}", "bold"))
        lines += [Padding(_code(text), (0, 0, 0, 2)) for text in texts]
    return Group(*lines)


def _stack(cell: Cell) -> Text:
    lines = [Text(cell.main), Text(cell.sub, "dim")]
    return Text("\n").join(lines if cell.sub else lines[:1])


def _code(text: str, style: str = "") -> Text:
    """Text in which what stands in backticks is set apart, and nothing else is markup."""
    parts = re.split(r"`([^`]*)`", text)
    pieces = [(part, f"{style} cyan" if place % 2 else style) for place, part in enumerate(parts)]
    return Text.assemble(*pieces)
