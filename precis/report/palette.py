"""Colors and dashes: one pair an arm, the same everywhere, told apart by color-blind readers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from precis.report.records import Store


class Ink(NamedTuple):
    """A color with its two faces.

    Attributes:
        name: Of its CSS variable, without the dashes.
        light: Hex, on a light page.
        dark: Hex, on a dark page.
    """

    name: str
    light: str
    dark: str


class Style(NamedTuple):
    """How an arm is drawn.

    Attributes:
        ink: Its color.
        dash: Lengths of dashes and gaps in pixels; empty for a solid line.
    """

    ink: Ink
    dash: tuple[float, ...]


INK = Ink("ink", "#1d2125", "#e8e6e1")
MUTED = Ink("muted", "#676e76", "#989fa7")
RULE = Ink("rule", "#d9dad6", "#363c43")
FLOOR = Ink("floor", "#8a9097", "#7d848c")
BAND = Ink("band", "#0f8f78", "#35b59b")

# Okabe and Ito's palette (Color Universal Design, 2008) in an order that keeps neighbors far apart,
# the pale ones darkened for a light page and all brightened for a dark one. Yellow is left out: no
# shade of it is legible on white.
_ARMS = (
    Ink("arm0", "#0072b2", "#4ba3e3"),
    Ink("arm1", "#d55e00", "#f28a45"),
    Ink("arm2", "#00845f", "#2cc295"),
    Ink("arm3", "#b5508f", "#e39ac6"),
    Ink("arm4", "#b87c00", "#efb93d"),
    Ink("arm5", "#3896d3", "#97d0f4"),
)
# The second to look at: dashes change at each arm and have another period than the colors, so that
# no pair comes twice among the first thirty arms.
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 2), (8, 2, 2, 2), (4, 1.5, 1, 1.5))

INKS = (INK, MUTED, RULE, FLOOR, BAND, *_ARMS)


def styles(store: Store) -> dict[str, Style]:
    """Each arm's style by name: the baseline in the text's color, the noise floor in gray."""
    found = {}
    others = 0
    for arm in store.arms:
        if arm.name == store.baseline:
            found[arm.name] = Style(INK, ())
        elif arm.name == store.noise_floor:
            found[arm.name] = Style(FLOOR, (2, 2))
        else:
            found[arm.name] = Style(_ARMS[others % len(_ARMS)], _DASHES[others % len(_DASHES)])
            others += 1
    return found


def css(inks: Iterable[Ink] = INKS, *, dark: bool) -> str:
    """The CSS variables of one face, one a line."""
    return "\n".join(f"--{ink.name}: {ink.dark if dark else ink.light};" for ink in inks)


def stand_in(ink: Ink) -> str:
    """The hex under which a figure is drawn: no color of its own, so that it can be found again."""
    return f"#a5{INKS.index(ink):04x}"


def with_variables(svg: str) -> str:
    """`svg` with each stand-in replaced by its CSS variable, and by the light face without CSS."""
    for ink in INKS:
        svg = svg.replace(stand_in(ink), f"var(--{ink.name}, {ink.light})")
    return svg
