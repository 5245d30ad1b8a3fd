"""Options of a format: which there are, and which of them a grid has codes for."""

from __future__ import annotations

import re
from typing import Any, get_args

from precis.formats.float_format import FloatFormat
from precis.formats.scaled import Overflow, Rounded, Rounding, ScaleRule, Subnormals
from precis.formats.spec import Grid
from precis.types import did_you_mean

_OPTIONS = re.compile(r"(.*?)\(([^()]*)\)")

_CHOICES: dict[str, tuple[str, ...]] = {
    "rounding": get_args(Rounding),
    "overflow": get_args(Overflow),
    "subnormals": get_args(Subnormals),
    "scale": get_args(ScaleRule),
}


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """`name(a,b=c)` as its name and its options, a bare option being a way of rounding."""
    match = _OPTIONS.fullmatch(text)
    if match is None or not match[1]:
        return text, {}
    options: dict[str, str] = {}
    for option in match[2].split(","):
        key, equals, value = option.partition("=")
        key, value = (key, value) if equals else ("rounding", option)
        if key not in _CHOICES:
            raise ValueError(f"{text!r}: no option is called {key!r}{did_you_mean(key, _CHOICES)}")
        check_option(key, value)
        if key in options:
            raise ValueError(f"{text!r}: {key!r} is given twice")
        options[key] = value
    return match[1], options


def with_rounding(grid: Grid, options: dict[str, str]) -> Grid | Rounded:
    """`grid` with ways of rounding; as it is, if they are the default.

    Raises:
        ValueError: As `check_rounding`.
    """
    how: dict[str, Any] = dict(options)
    rounded = Rounded(grid, **how)
    check_rounding(rounded)
    return rounded if rounded != Rounded(grid) else grid


def check_rounding(fmt: Rounded) -> None:
    """Refuses ways of rounding that the grid has no codes for.

    Raises:
        ValueError: Overflow to an Inf or NaN that the grid lacks.
    """
    grid = fmt.grid
    has = {
        "inf": isinstance(grid, FloatFormat) and grid.has_inf,
        "nan": isinstance(grid, FloatFormat) and grid.has_nan,
    }
    if fmt.overflow is not None and not has.get(fmt.overflow, True):
        raise ValueError(f"overflow={fmt.overflow!r}: {grid} has no {fmt.overflow}; try 'saturate'")


def check_option(key: str, value: str | None) -> None:
    """Refuses an unknown value of one of `round_to`'s options.

    Raises:
        ValueError: It is not one of the choices; the message names the nearest.
    """
    if value is not None and value not in _CHOICES[key]:
        raise ValueError(
            f"{key}={value!r} is none of {', '.join(_CHOICES[key])}"
            f"{did_you_mean(str(value), _CHOICES[key])}"
        )
