"""How coarse the formats of an arm are, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from precis.formats import Codebook, FloatFormat, Format, IntFormat, Rounded, ScaledFormat, parse
from precis.report.records import Trial, resolved
from precis.report.words import count


class Grain(NamedTuple):
    """How coarse a format is.

    Attributes:
        format: Its name.
        error: The largest error of a value within range, relative to it or to what `of` says.
        has: What makes it so, as a predicate.
        of: What the error is relative to, if not to the value itself.
    """

    format: str
    error: float
    has: str
    of: str = ""


def grains(trials: Sequence[Trial]) -> dict[str, Grain]:
    """By key, the grain of every format of an arm's policy, scaled or not.

    A rule's key has its pattern before it.
    """
    found = {}
    for role in resolved(trials):
        fmt = parse(role.format)
        share = _share_of_step(fmt)
        match fmt.grid if isinstance(fmt, Rounded | ScaledFormat) else fmt:
            case FloatFormat() as grid:
                has = f"keeps {count(grid.mantissa_bits, 'mantissa bit')}"
                found[role.key] = Grain(role.format, grid.eps * share, has)
            case IntFormat() as grid:
                steps = 2 * grid.max / grid.unit
                has = f"has {steps:,.0f} steps for all that shares a scale"
                of = " of the largest among them"
                found[role.key] = Grain(role.format, 2 * share / steps, has, of)
            case Codebook() as grid:
                widest = max(float(gap) for gap in np.diff(grid.values))
                largest = max(abs(grid.min), abs(grid.max))
                has = f"has {len(grid.values)} values for all that shares a scale"
                of = " of the largest among them"
                found[role.key] = Grain(role.format, share * widest / largest, has, of)
            case _:
                continue
    return found


def _share_of_step(fmt: Format) -> float:
    """By how much of the distance of two values rounding may be off; by chance, all of it."""
    how = fmt.rounding if isinstance(fmt, ScaledFormat) else fmt
    is_nearest = not isinstance(how, Rounded) or how.rounding.startswith("nearest")
    return 0.5 if is_nearest else 1.0
