"""The bits of a format as boxes, one color a field."""

from __future__ import annotations

from typing import NamedTuple

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

# Told apart by color-blind readers, and by the boxes without any color.
_STYLES = {"sign": "bold magenta", "exponent": "bold yellow", "fraction": "bold cyan"}


class Field(NamedTuple):
    """One box.

    Attributes:
        kind: `sign`, `exponent` or `fraction`, which decides the color.
        bits: What stands in it, one character a bit.
        words: What it is, for the legend.
    """

    kind: str
    bits: str
    words: str = ""


def boxes(fields: list[Field]) -> Text:
    """Three lines of boxes, without those that are empty."""
    drawn = [field for field in fields if field.bits]
    lines = [
        Text("┌" + "┬".join("─" * len(field.bits) for field in drawn) + "┐", "dim"),
        Text().append("│", "dim"),
        Text("└" + "┴".join("─" * len(field.bits) for field in drawn) + "┘", "dim"),
    ]
    for field in drawn:
        lines[1].append(field.bits, _STYLES[field.kind]).append("│", "dim")
    return Text("\n").join(lines)


def legend(fields: list[Field]) -> Text:
    """What the boxes are, in their colors."""
    parts = [Text(field.words, _STYLES[field.kind]) for field in fields if field.bits]
    return Text("  ").join(parts)


def indented(shown: RenderableType) -> Padding:
    """`shown` two columns to the right, without blanks behind it."""
    return Padding(shown, (0, 0, 0, 2), expand=False)
