"""The doors: a store's folder in, the report's files or a terminal out."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from precis.report.assemble import summarize
from precis.report.html import to_html
from precis.report.markdown import to_markdown
from precis.report.read import load
from precis.report.terminal import print_report


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
    return (
        _replace(folder / "report.html", to_html(report)),
        _replace(folder / "report.md", to_markdown(report)),
    )


def show(folder: str | Path, console: Console | None = None) -> None:
    """Prints the report of a sweep's folder on `console`, by default on standard output.

    Raises:
        ValueError: The folder holds no sweep.
    """
    print_report(summarize(load(folder)), console or Console())


def _replace(path: Path, text: str) -> Path:
    """Puts `text` in place in one step, so that a reader never sees half a page."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, encoding="utf-8", newline="\n")
    os.replace(draft, path)
    return path
