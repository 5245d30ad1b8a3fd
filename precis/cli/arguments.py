"""How arguments look in the help of a command, where several commands have them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tyro

Output = Annotated[
    Literal["terminal", "markdown", "json"],
    tyro.conf.arg(name="as", metavar="terminal|markdown|json"),
]
"""How what a command tells is printed."""


def arg(metavar: str) -> Any:
    """An argument whose help shows no default: one that is no value, or that the words explain."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")
