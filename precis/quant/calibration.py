"""Calibration: what magnitude, or what range, a group of values is scaled by.

The largest magnitude clips nothing; a smaller one rounds all others more finely. Names and nouns,
which need no jax; `magnitudes.py` computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from precis.types import did_you_mean


@dataclass(frozen=True, slots=True)
class AbsMax:
    """By the largest magnitude."""


@dataclass(frozen=True, slots=True)
class MinMax:
    """By the range from min(x, 0) to max(x, 0), with a zero point: integers alone."""


@dataclass(frozen=True, slots=True)
class Percentile:
    """By the smallest magnitude that at least `percent` of a group do not exceed.

    Attributes:
        percent: Above 0, at most 100. Zeros that fill up a last block count as values.
    """

    percent: float = 99.9


@dataclass(frozen=True, slots=True)
class Mse:
    """By that share of the largest magnitude which makes the sum of squared errors smallest.

    Attributes:
        steps: How many shares are tried, evenly from 1 down; of equal ones the largest wins.
        smallest: The last of them.
    """

    steps: int = 15
    smallest: float = 0.3


Calibration: TypeAlias = AbsMax | MinMax | Percentile | Mse


def read_calibration(text: Calibration | str) -> Calibration:
    """`absmax`, `minmax`, `mse`, `percentile` or `percentile=99.5`.

    >>> read_calibration("percentile=99.5")
    Percentile(percent=99.5)

    Raises:
        ValueError: Another text, or a percentile that is none.
    """
    if isinstance(text, Calibration):
        return text
    name, equals, number = str(text).partition("=")
    if name == "percentile" and equals:
        percent = float(number) if _is_number(number) else math.nan
        if not 0 < percent <= 100:
            raise ValueError(f"{text!r}: a percentile is above 0 and at most 100")
        return Percentile(percent)
    if equals or name not in _NAMED:
        raise ValueError(f"no calibration is called {text!r}{did_you_mean(name, _NAMED)}")
    return _NAMED[name]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_NAMED = {
    "absmax": AbsMax(),
    "minmax": MinMax(),
    "percentile": Percentile(),
    "mse": Mse(),
}
