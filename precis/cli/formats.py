"""The command `formats`: which numbers a format has, and what becomes of a number in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from precis.cli.arguments import arg
from precis.cli.console import open_console

_PICTURES = (".svg", ".png")
_NEGATIVE = re.compile(r"-(?=\.?\d|inf|nan)", re.IGNORECASE)


def formats(
    name: Annotated[tyro.conf.Positional[str | None], arg("[NAME]")] = None,
    numbers: Annotated[tyro.conf.Positional[tuple[str, ...]], arg("[NUMBER ...]")] = (),
    *,
    picture: Annotated[Path | None, arg("FILE")] = None,
) -> int:
    """Print all number formats, or one, or what becomes of numbers in it.

    Args:
        name: A format, such as fp16, e4m3fn, int8, nvfp4 or any eXmY; all if left out.
        numbers: Numbers to read in it, such as 0.1, -7e4, 2^-24 or inf.
        picture: Write number lines and spacing to this file, .svg or .png.
    """
    from precis.cli.format_card import print_card
    from precis.cli.format_reading import print_readings
    from precis.cli.format_table import print_table
    from precis.formats import parse

    if picture is not None and picture.suffix.lower() not in _PICTURES:
        raise ValueError(f"--picture writes {' or '.join(_PICTURES)}, got {str(picture)!r}")
    fmt = parse(name) if name is not None else None
    console = open_console()
    if fmt is None:
        print_table(console)
    elif numbers:
        print_readings(fmt, numbers, console)
    else:
        print_card(fmt, console)
    if picture is not None:
        from precis.report import draw_number_lines

        draw_number_lines(picture, fmt)
        console.print(f"picture: {picture}", soft_wrap=True, highlight=False)
    return 0


def with_true_minus(arguments: Sequence[str]) -> list[str]:
    """The arguments of `formats` with a true minus before negative numbers.

    No parser takes `−0.1` for an option, as it does `-1e-8` or `-inf`.

    >>> with_true_minus(["formats", "fp16", "-1e-8", "--picture", "a.svg"])
    ['formats', 'fp16', '−1e-8', '--picture', 'a.svg']
    """
    if list(arguments[:1]) != ["formats"]:
        return list(arguments)
    return [f"−{text[1:]}" if _NEGATIVE.match(text) else text for text in arguments]
