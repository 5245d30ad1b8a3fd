"""Where all commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def open_console() -> Console:
    """The terminal, as wide as it is."""
    # `--help` must not wait for rich.
    from rich.console import Console

    return Console()
