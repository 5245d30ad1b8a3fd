"""Which formats can be kept or sent as bytes; known without jax, so that a policy can be read."""

from __future__ import annotations

from precis.formats.parse import Format, parse
from precis.formats.scaled import Rounded, ScaledFormat


def compact_format(fmt: Format | str) -> ScaledFormat:
    """`fmt`, checked to be one that `compress` takes.

    Raises:
        ValueError: It has no blocks with float32 scales, its grid has more than 8 bits, or it
            rounds other than to the nearest.
    """
    fmt = parse(fmt)
    if not isinstance(fmt, ScaledFormat) or fmt.granularity != "block" or fmt.scale is not None:
        raise ValueError(f"blocks with float32 scales are wanted, as in int8@block256, got {fmt}")
    if fmt.grid.bits > 8:
        raise ValueError(f"a grid of at most 8 bits is wanted, as in int8@block256, got {fmt}")
    if fmt.rounding != Rounded(fmt.grid, overflow="saturate"):
        raise ValueError(f"{fmt}: what is kept in few bits is rounded to nearest")
    return fmt
