"""Formats in which an optimizer's moments can be kept."""

from __future__ import annotations

from dataclasses import replace

from precis.formats import (
    Codebook,
    FloatFormat,
    Format,
    Grid,
    IntFormat,
    ScaledFormat,
    compact_format,
    parse,
)

# A gradient that is a hundredth of the largest in its block has a second moment of 10^-4 of it.
# A grid that rounds that to 0 lets Adam divide by eps alone.
_SMALLEST_SECOND = 1e-4


def moment_format(role: str, fmt: Format | str) -> FloatFormat | ScaledFormat:
    """`fmt` as the format of first (`m`) or second (`v`) moments.

    It is a dtype (`f32`, `bf16`, `f16`), or blocks of at most 8 bits with float32 scales
    (`int8@block256`). Second moments are not negative, so their `dynamic8` is the unsigned
    `udynamic8`.

    >>> str(moment_format("v", "dynamic8@block256"))
    'udynamic8@block256'

    Raises:
        ValueError: Another format, or one whose values cannot be that moment's.
    """
    fmt = parse(fmt)
    if isinstance(fmt, FloatFormat):
        if not fmt.is_native:
            raise ValueError(
                f"{role}={fmt}: {role} is stored as it is, so its format must be a dtype or have "
                f"blocks; choose f32, bf16, f16, or {fmt}@block256 if it has at most 8 bits"
            )
        return fmt
    if not isinstance(fmt, ScaledFormat):
        raise ValueError(f"{role}={fmt}: stored in few bits, it wants blocks, as in {fmt}@block256")
    try:
        blocks = compact_format(fmt)
    except ValueError as error:
        raise ValueError(f"{role}={fmt}: {error}") from None
    return _second(blocks) if role == "v" else _first(blocks)


def _first(fmt: ScaledFormat) -> ScaledFormat:
    if fmt.grid.min >= 0:
        raise ValueError(f"m={fmt}: {fmt.grid} has no negative values, and would make them zero")
    return fmt


def _second(fmt: ScaledFormat) -> ScaledFormat:
    grid = fmt.grid
    if isinstance(grid, Codebook) and grid.name == "dynamic8":
        unsigned = parse(str(fmt).replace("dynamic8", "udynamic8"))
        assert isinstance(unsigned, ScaledFormat)
        return replace(unsigned, rule=fmt.rule)
    smallest = _smallest_positive(grid)
    if smallest / grid.max > _SMALLEST_SECOND:
        raise ValueError(
            f"v={fmt}: the smallest value but 0 is {smallest / grid.max:.2g} of a block's largest; "
            "second moments below half of that would be 0, and updates, divided by their root, "
            "explode; choose dynamic8@block256 or e5m2@block256"
        )
    return fmt


def _smallest_positive(grid: Grid) -> float:
    match grid:
        case FloatFormat():
            return grid.smallest_subnormal
        case IntFormat():
            return grid.unit
        case Codebook():
            return min(value for value in grid.values if value > 0)
