"""Figures as text: numbers that align in a column, sizes, shares, and lists of names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

NOTHING = "–"
MINUS = "−"
NO_BREAK = "\u00a0"
# Names of a list that are spelled out.
_LISTED = 3


def number(x: float | None, decimals: int, *, signed: bool = False) -> str:
    """`x` with a fixed number of decimals and a true minus; a dash for None.

    >>> number(-0.126, 2), number(0.126, 2, signed=True), number(None, 2)
    ('−0.13', '+0.13', '–')
    """
    if x is None or math.isnan(x):
        return NOTHING
    if math.isinf(x):
        return "∞" if x > 0 else f"{MINUS}∞"
    text = f"{abs(x):.{decimals}f}"
    # A rounded zero has no side: −0.00 and +0.00 would claim one.
    zero = not float(text)
    return ("" if zero else MINUS if x < 0 else "+" if signed else "") + text


def short(x: float | None) -> str:
    """`x` with two significant digits, for a sentence.

    >>> short(0.012345), short(0.5), short(1234.0), short(3e-7)
    ('0.012', '0.5', '1200', '3e-07')
    """
    if x is None or not math.isfinite(x):
        return number(x, 0)
    rounded = float(f"{x:.2g}")
    text = f"{rounded:.2g}" if abs(rounded) < 100 else f"{rounded:.0f}"
    return text.replace("-", MINUS, 1) if x < 0 else text


def decimals(halves: Iterable[float | None], values: Iterable[float | None]) -> int:
    """How many decimals a column wants: one significant digit of its narrowest interval.

    Never more than make five significant digits of its largest value, nor more than six.

    >>> decimals([0.0123, 0.0004], [1.92, 2.31])
    4
    """
    sizes = [abs(v) for v in values if v is not None and math.isfinite(v) and v]
    widths = [h for h in halves if h is not None and math.isfinite(h) and h > 0]
    largest = math.floor(math.log10(max(sizes))) if sizes else 0
    finest = -math.floor(math.log10(min(widths))) if widths else 4
    return max(0, min(finest, 4 - largest, 6))


def times(x: float | None) -> str:
    """A ratio, with two decimals below ten: `0.61×`, `12×`."""
    if x is None:
        return NOTHING
    return f"{x:.2f}×" if x < 9.995 else f"{x:,.0f}×"


def percent(share: float | None) -> str:
    """A share as whole percents; what is near to, and not, none or all of it says so.

    >>> percent(0.5), percent(0.9999), percent(0.0001), percent(1.0)
    ('50%', '>99%', '<1%', '100%')
    """
    if share is None or math.isnan(share):
        return NOTHING
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def one_part(x: float) -> str:
    """A power of two below one, as the reader's fraction.

    >>> one_part(2.0**-12)
    '1 part in 4,096'
    """
    return f"1 part in {1 / x:,.0f}"


def byte_unit(sizes: Iterable[int | None]) -> tuple[int, str]:
    """The unit in which the largest of `sizes` is at least one: its bytes, and its name."""
    largest = max((size for size in sizes if size is not None), default=0)
    units = [(2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")]
    return next((unit for unit in units if largest >= unit[0]), units[-1])


def in_unit(size: int | None, unit: tuple[int, str]) -> str:
    """`size` in `unit`, without its name."""
    return number(None if size is None else size / unit[0], 0 if unit[0] == 1 else 2)


def names(items: Sequence[str]) -> str:
    """A list in a sentence, each as code: `a`, `b` and `c`."""
    marked = [f"`{item}`" for item in items]
    return " and ".join([*([", ".join(marked[:-1])] if marked[:-1] else []), *marked[-1:]])


def first_few(items: Sequence[str]) -> str:
    """The first three of several names, and how many more there are.

    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more


def count(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
