"""Numbers as a format sees them: bits, nearest value, error."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from rich.console import Console
from rich.table import Table
from rich.text import Text

from precis.cli.format_bits import Field, boxes, indented
from precis.formats.float_format import FloatFormat
from precis.formats.parse import Format
from precis.formats.reading import Reading, read_number
from precis.formats.scaled import ScaledFormat
from precis.report.powers import both, decimal, figure, is_short

_STYLES = {
    "exact": "green",
    "rounded": "",
    "subnormal": "yellow",
    "underflowed": "bold yellow",
    "overflowed": "bold red",
    "not a number": "bold red",
}
# A value of a format of up to 16 bits is told to its last digit, unless it is a tiny one; longer
# ones get as many digits as name a float64.
_EXACT_DIGITS, _DIGITS = 20, 17


def print_readings(fmt: Format, numbers: Sequence[str], console: Console) -> None:
    """Prints what becomes of each number; in a scaled format, at a scale of 1.

    Raises:
        ValueError: One is no number; nothing is printed.
    """
    how = fmt.rounding if isinstance(fmt, ScaledFormat) else fmt
    readings = [read_number(number, how) for number in numbers]
    if isinstance(fmt, ScaledFormat):
        console.print(
            Text(f"{fmt} at a scale of 1; a tensor would be scaled first", "dim"),
        )
    for place, (number, reading) in enumerate(zip(numbers, readings, strict=True)):
        if place:
            console.print()
        console.print(_headline(number, reading))
        console.print(indented(_bits(reading)))
        console.print(indented(_rows(reading)))


def _headline(number: str, reading: Reading) -> Text:
    became = ""
    if reading.status in ("underflowed", "overflowed"):
        became = f" to {figure(reading.nearest)}"
    return Text.assemble(
        (number, "bold"),
        (f"  in {reading.grid}  ", "dim"),
        (f"{reading.status}{became}", _STYLES[reading.status]),
    )


def _bits(reading: Reading) -> Text:
    fields = [
        Field("sign", reading.sign),
        Field("exponent", reading.exponent),
        Field("fraction", reading.fraction),
    ]
    return boxes(fields)


def _rows(reading: Reading) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, text in _told(reading):
        table.add_row(name, Text(text))
    return table


def _told(reading: Reading) -> list[tuple[str, str]]:
    digits = -(-reading.grid.bits // 4)
    rows = [("code", f"0x{reading.code:0{digits}x}"), ("nearest", _value(reading))]
    if product := _product(reading):
        rows.append(("which is", product))
    if reading.error is not None and reading.ulp is not None:
        ulps = f"{decimal(reading.error / reading.ulp, 3)} ulp"
        relative = reading.relative_error
        shares = ulps if relative is None else f"relative {decimal(relative, 3)}, {ulps}"
        rows.append(("error", f"{decimal(reading.error, 4)} ({shares})" if reading.error else "0"))
    if reading.ulp is not None:
        rows.append(("ulp", both(reading.ulp)))
    return rows


def _value(reading: Reading) -> str:
    nearest = reading.nearest
    if not isinstance(nearest, Fraction) or is_short(nearest, _EXACT_DIGITS):
        return decimal(nearest, _EXACT_DIGITS)
    return both(nearest, _DIGITS)


def _product(reading: Reading) -> str:
    """A finite float as its fields say it, `(1 + 614/1024) × 2^-4`; empty for all else."""
    grid = reading.grid
    if not isinstance(grid, FloatFormat) or not isinstance(reading.nearest, Fraction):
        return ""
    if reading.nearest == 0:
        return ""
    field = int(reading.exponent, 2)
    normal = field > 0 or not grid.has_zero
    exponent = field - grid.bias if normal else grid.min_exponent
    sign = "−" if reading.nearest < 0 else ""
    if not reading.fraction or not int(reading.fraction, 2):
        return f"{sign}2^{exponent}"
    part = f"{int(reading.fraction, 2)}/{1 << grid.mantissa_bits}"
    significand = f"(1 + {part})" if normal else part
    return f"{sign}{significand} × 2^{exponent}"
