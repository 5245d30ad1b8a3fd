"""The report as Markdown, for a repository, an issue or a terminal without color."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from precis.report.answer import badge, detail, tolerance
from precis.report.assemble import Report, Section
from precis.report.cells import Cell, Column, columns
from precis.report.facts import environment, header, quantized_note, seeds_table, task_facts
from precis.report.roles import role_table
from precis.report.rows import Row


def to_markdown(report: Report) -> str:
    """The report as one Markdown document, the same text for the same store.

    It holds what the page holds but for the figures, which it leaves to `report.html` beside it.
    """
    store = report.store
    parts = [f"# {_plain(store.name)}", _plain(header(store))]
    parts += [f"> {warning}" for warning in report.warnings]
    for section in report.sections:
        parts += _section(section)
    parts += ["## What ran", _roles(report), "### Environment", _facts(environment(store))]
    parts += _broken(report)
    parts.append("The curves are in `report.html`, beside this file.")
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    table = section.table
    named = [
        f"- **{point.kind}**: {', '.join(f'`{name}`' for name, _ in point.arms)}"
        for point in section.answer.points
    ]
    shown = columns(table)
    heads = ["arm", f"verdict ({tolerance(table)})", *(map(_head, shown.values()))]
    body = [
        [f"`{row.arm.name}`", _verdict(section, row), *(_join(c.cells[i]) for c in shown.values())]
        for i, row in enumerate(table.rows)
    ]
    parts = [
        f"## {_plain(table.task.label)}",
        f"**{section.answer.lead}**",
        "\n".join(named),
        _table(heads, body, left=2),
        "± is half of the 95% interval over seeds (Student's t); gaps are paired by seed.",
        quantized_note(table),
        _facts(task_facts(table)),
    ]
    if section.findings:
        found = [f"- `{name}`: {' '.join(texts)}" for name, texts in section.findings]
        parts += ["### Why", "\n".join(map(_line, found))]
    return [part for part in parts if part]


def _verdict(section: Section, row: Row) -> str:
    small = detail(section.table, row)
    return f"**{badge(row)}**" + (f", {small}" if small else "")


def _head(column: Column) -> str:
    return f"{column.title} ({column.note})" if column.note else column.title


def _join(cell: Cell) -> str:
    if cell.sub.startswith("±"):
        return f"{cell.main} {cell.sub}"
    return f"{cell.main} ({cell.sub})" if cell.sub else cell.main


def _roles(report: Report) -> str:
    roles = role_table(report.store)
    heads = [
        "arm",
        "as written",
        *(f"`{key}` {name}" for key, name in roles.heads),
        "recipe",
        "reason",
    ]
    body = []
    for line in roles.lines:
        cells = [f"**{fmt}**" if differs else fmt for fmt, differs in line.formats]
        padding = [""] * (len(roles.heads) - len(cells))
        body.append(
            [f"`{line.arm}`", f"`{line.given}`", *cells, *padding, line.recipe, line.reason]
        )
    return _table(heads, body, left=2)


def _broken(report: Report) -> list[str]:
    broken = {trial.dir for trial in report.broken}
    lines = [line for line in seeds_table(report.store) if line.dir in broken]
    if not lines:
        return []
    body = [[f"`{line.dir}`", line.state, line.step, line.note] for line in lines]
    return [
        "## Diverged and failed trials",
        _table(["trial", "state", "step", "what happened"], body, left=4),
    ]


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {_plain(key)}: {_plain(value)}" for key, value in facts)


def _table(heads: Sequence[str], body: Iterable[Sequence[str]], *, left: int) -> str:
    """A table whose first `left` columns are flush left and whose others are flush right."""
    rule = [":--" if place < left else "--:" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (heads, rule, *body))


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split("\n"))


def _plain(text: str) -> str:
    """Text of the store in which no character is taken for markup."""
    return "".join(f"\\{c}" if c in "\\`*_<>[]#|" else c for c in _line(text))
