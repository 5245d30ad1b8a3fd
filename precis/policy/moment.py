"""Formats in which an optimizer's moments can be kept."""

from __future__ import annotations

from dataclasses import replace

from precis.formats import Codebook, FloatFormat, Format, ScaledFormat, facts, parse
from precis.policy.kept import kept_format

# A gradient that is a hundredth of the largest in its block has a second moment of 10^-4 of it.
# A grid that rounds that to 0 lets Adam divide by eps alone.
_SMALLEST_SECOND = 1e-4


def moment_format(role: str, fmt: Format | str) -> FloatFormat | ScaledFormat:
    """`fmt` as the format of first (`m`) or second (`v`) moments.

    It is one that `kept_format` allows. Second moments are not negative, so their `dynamic8` is
    the unsigned `udynamic8`.

    >>> str(moment_format("v", "dynamic8@block256"))
    'udynamic8@block256'

    Raises:
        ValueError: Another format, or one whose values cannot be that moment's.
    """
    kept = kept_format(role, fmt)
    return _second(kept) if role == "v" and isinstance(kept, ScaledFormat) else kept


def _second(fmt: ScaledFormat) -> ScaledFormat:
    grid = fmt.grid
    if isinstance(grid, Codebook) and grid.name == "dynamic8":
        unsigned = parse(str(fmt).replace("dynamic8", "udynamic8"))
        assert isinstance(unsigned, ScaledFormat)
        return replace(unsigned, rule=fmt.rule)
    smallest = facts(grid).smallest_positive
    if smallest / grid.max > _SMALLEST_SECOND:
        raise ValueError(
            f"v={fmt}: the smallest value but 0 is {smallest / grid.max:.2g} of a block's largest; "
            "second moments below half of that would be 0, and updates, divided by their root, "
            "explode; choose dynamic8@block256 or e5m2@block256"
        )
    return fmt
