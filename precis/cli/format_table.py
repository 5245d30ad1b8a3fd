"""All formats that have a name, as tables that fit eighty columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from precis.formats.catalogue import CATALOGUE
from precis.formats.facts import Facts, facts
from precis.formats.scaled import BLOCK_FORMATS
from precis.report.powers import decimal, figure

_HINT = """\
Any eXmY and intN is a format, too, and so is one with a scale: int8@channel.
`precis formats NAME` tells all of one; add numbers to see what becomes of them."""


def print_table(console: Console) -> None:
    """Prints floats, then integers and codebooks, then block formats."""
    named = [facts(fmt) for fmt in CATALOGUE.values()]
    console.print(_floats([told for told in named if told.kind == "float"]))
    console.print(_others([told for told in named if told.kind != "float"]))
    console.print(_blocks([facts(name) for name in BLOCK_FORMATS]))
    console.print(_HINT, style="dim", highlight=False)


def _floats(rows: list[Facts]) -> Table:
    table = _table("float")
    for heading in ("bits", "s-e-m", "max", "min normal", "min positive"):
        table.add_column(heading, justify="right")
    for heading in ("eps", "NaN", "inf"):
        table.add_column(heading, justify="right")
    for told in rows:
        fields = f"{int(told.min < 0)}-{told.exponent_bits}-{told.mantissa_bits}"
        table.add_row(
            told.short_name,
            str(told.bits),
            fields,
            decimal(told.max, 5 if told.max < 1e6 else 3),
            figure(told.smallest_normal),
            figure(told.smallest_positive),
            figure(told.eps),
            *("yes" if codes else "–" for codes in (told.nan_codes, told.inf_codes)),
        )
    return table


def _others(rows: list[Facts]) -> Table:
    table = _table("integer, codebook")
    for heading in ("bits", "min", "max", "min positive", "values", "kept as"):
        table.add_column(heading, justify="right")
    for told in rows:
        table.add_row(
            told.short_name,
            str(told.bits),
            *(figure(x) for x in (told.min, told.max, told.smallest_positive)),
            str(told.finite_values),
            told.storage_dtype.name,
        )
    return table


def _blocks(rows: list[Facts]) -> Table:
    table = _table("block")
    table.add_column("bits/value", justify="right")
    table.add_column("max", justify="right")
    table.add_column("scaled")
    for told in rows:
        table.add_row(
            told.short_name, f"{told.bits_per_value:g}", figure(told.max), told.scale or ""
        )
    return table


def _table(kind: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(kind, style="bold", no_wrap=True)
    return table
