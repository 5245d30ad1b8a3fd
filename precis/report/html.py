"""The report as one HTML file: no outside resource, light and dark, figures inline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from precis.report.answer import badge, detail, tolerance
from precis.report.assemble import Report, Section
from precis.report.cells import Column, columns
from precis.report.draw import Figures, figures
from precis.report.facts import environment, header, quantized_note, seeds_table, task_facts
from precis.report.palette import css, styles
from precis.report.records import Store
from precis.report.roles import role_table
from precis.report.rows import TaskTable

_TEMPLATES = Path(__file__).parent / "templates"
# A shape beside the color, for those who see neither red nor green and for a printed page.
_MARKS = {
    "within tolerance": "✓",
    "better": "▲",
    "worse": "▼",
    "inconclusive": "?",
    "diverges": "✕",
    "withheld": "–",
    "baseline": "",
}


class _View(NamedTuple):
    """What the template wants to know of one task."""

    section: Section
    table: TaskTable
    facts: tuple[tuple[str, str], ...]
    columns: dict[str, Column]
    figures: Figures


def to_html(report: Report) -> str:
    """The report as a page of HTML, the same text for the same store.

    Whatever comes from the store is escaped; names in backticks become code.
    """
    page = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page.filters["code"] = _code
    return page.get_template("report.html.j2").render(
        quantized_note=quantized_note,
        badge=badge,
        detail=detail,
        tolerance=tolerance,
        marks=_MARKS,
        report=report,
        store=report.store,
        look=styles(report.store),
        light=Markup(css(dark=False)),
        dark=Markup(css(dark=True)),
        header=header(report.store),
        environment=environment(report.store),
        trials=seeds_table(report.store),
        roles=role_table(report.store),
        views=[_view(report.store, section) for section in report.sections],
    )


def _view(store: Store, section: Section) -> _View:
    table = section.table
    drawn = Figures(*map(Markup, figures(store, table)))
    return _View(section, table, task_facts(table), columns(table), drawn)


def _code(text: str) -> Markup:
    """Escaped text in which backticks have become code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
