"""The doors: a store's folder in, the report's files or a terminal out."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from precis.report.assemble import summarize
from precis.report.html import to_html
from precis.report.markdown import to_markdown
from precis.report.read import load
from precis.report.terminal import print_report
from precis.sweep.store.strict import write_text


def write(folder: str | Path) -> tuple[Path, Path]:
    """Writes `report.html` and `report.md` into a sweep's folder, whole or not at all.

    The same store gives the same bytes.

    Args:
        folder: A sweep's folder.

    Returns:
        Where the page and the Markdown are.

    Raises:
        ValueError: The folder holds no sweep.
    """
    folder = Path(folder)
    report = summarize(load(folder))
    page, text = folder / "report.html", folder / "report.md"
    write_text(page, to_html(report))
    write_text(text, to_markdown(report))
    return page, text


def show(folder: str | Path, console: Console | None = None) -> None:
    """Prints the report of a sweep's folder on `console`, by default on standard output.

    Raises:
        ValueError: The folder holds no sweep.
    """
    print_report(summarize(load(folder)), console or Console())
