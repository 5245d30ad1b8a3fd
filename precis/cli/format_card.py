"""One format on a screen: how its bits lie, and its figures."""

from __future__ import annotations

from fractions import Fraction

from rich.console import Console
from rich.table import Table
from rich.text import Text

from precis.cli.format_bits import Field, boxes, indented, legend
from precis.formats.catalogue import ALIASES, FLOAT32
from precis.formats.exact import landing, value_of
from precis.formats.facts import Facts, facts
from precis.formats.float_format import FloatFormat
from precis.formats.ladder import ends, number_at
from precis.formats.parse import Format
from precis.formats.scaled import Rounded, ScaledFormat
from precis.formats.spec import Codebook, Grid, IntFormat
from precis.report.powers import both, decimal

# As many as fit on one line.
_LISTED = 16


def print_card(fmt: Format, console: Console) -> None:
    """Prints the bits and the figures of a format; of a scaled one, of element and scale."""
    told = facts(fmt)
    grid = fmt if isinstance(fmt, FloatFormat | IntFormat | Codebook) else fmt.grid
    console.print(_title(told))
    if isinstance(fmt, ScaledFormat):
        _print_layout(grid, console, f"element {grid}")
        shared = f", one for {fmt.block} values" if fmt.block else ""
        _print_layout(fmt.scale or FLOAT32, console, f"scale {fmt.scale or FLOAT32}{shared}")
    else:
        _print_layout(grid, console)
    if told.note:
        console.print(indented(Text(told.note)))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for row in [*_scale_rows(told), *_figures(told, grid), *_edges(fmt, grid), *_codes(told, grid)]:
        table.add_row(*map(Text, row))
    console.print(indented(table))


def _title(told: Facts) -> Text:
    names = {told.short_name, *(short for short, name in ALIASES.items() if name == told.name)}
    others = ", ".join(sorted(names - {told.name}, key=lambda name: (len(name), name)))
    return Text.assemble((told.name, "bold"), (f"  {others}" if others else "", "dim"))


def _print_layout(grid: Grid, console: Console, heading: str = "") -> None:
    fields = _fields(grid)
    if heading:
        console.print(indented(Text(heading, "bold")))
    console.print(indented(boxes(fields)))
    console.print(indented(legend(fields)))


def _fields(grid: Grid) -> list[Field]:
    match grid:
        case FloatFormat():
            return [
                Field("sign", "s" * grid.is_signed, "sign"),
                Field(
                    "exponent",
                    "e" * grid.exponent_bits,
                    f"{grid.exponent_bits} exponent bits, bias {grid.bias}",
                ),
                Field("fraction", "f" * grid.mantissa_bits, f"{grid.mantissa_bits} fraction bits"),
            ]
        case IntFormat():
            words = "two's complement" if grid.signed else "no sign"
            return [
                Field("sign", "s" * grid.signed, "sign"),
                Field("fraction", "i" * (grid.bits - grid.signed), f"{grid.bits} bits, {words}"),
            ]
        case Codebook():
            return [Field("fraction", "i" * grid.bits, f"place in a list of {len(grid.values)}")]


def _scale_rows(told: Facts) -> list[tuple[str, str]]:
    if told.scale is None:
        return []
    return [
        ("scaled", told.scale),
        ("bits a value", f"{told.bits_per_value:g}"),
        ("of an element:", ""),
    ]


def _figures(told: Facts, grid: Grid) -> list[tuple[str, str]]:
    rows = [("max", both(told.max)), ("min", both(told.min))]
    if told.smallest_normal is None or told.smallest_subnormal is None:
        rows.append(("smallest positive", both(told.smallest_positive)))
    else:
        rows.append(("smallest normal", both(told.smallest_normal)))
        rows.append(("smallest subnormal", both(told.smallest_subnormal)))
    if told.eps is not None:
        rows.append(("eps, the step above 1", both(told.eps)))
    if isinstance(grid, IntFormat):
        rows.append(("step", both(grid.unit)))
    return [*rows, ("decades of range", f"{told.decades:.1f}")]


def _edges(fmt: Format, grid: Grid) -> list[tuple[str, str]]:
    """Where numbers are lost below and above, found by rounding the midpoints themselves."""
    if isinstance(grid, Codebook) or (isinstance(grid, FloatFormat) and not grid.has_zero):
        return []
    how = fmt.rounding if isinstance(fmt, ScaledFormat) else Rounded(grid)
    if isinstance(fmt, Rounded):
        how = fmt
    if how.rounding not in ("nearest_even", "nearest_away") or how.subnormals == "flush":
        return []
    half = number_at(1, grid) / 2
    last = ends(grid)[1]
    edge = (number_at(last, grid) + number_at(last + 1, grid)) / 2
    zero = "at or below" if landing(half, how).code == landing(Fraction(0), how).code else "below"
    over = "from" if landing(edge, how).is_overflow else "above"
    beyond = value_of(landing(2 * edge, how).code, grid)
    return [
        ("rounds to zero", f"{zero} {both(half)}"),
        ("overflows", f"{over} {both(edge, 5)}, to {decimal(beyond, 5)}"),
    ]


def _codes(told: Facts, grid: Grid) -> list[tuple[str, str]]:
    once = ", ±0 once" if isinstance(grid, FloatFormat) and grid.has_negative_zero else ""
    rows = [("finite values", f"{told.finite_values}{once}")]
    if told.kind != "codebook" and told.finite_values <= _LISTED:
        first, last = ends(grid)
        values = (number_at(rung, grid) for rung in range(max(first, 0), last + 1))
        rows.append(("from zero up", "  ".join(decimal(value, 6) for value in values)))
    if isinstance(grid, Codebook) and told.finite_values <= _LISTED:
        rows.append(("values", "  ".join(decimal(value, 4) for value in grid.values)))
    if isinstance(grid, FloatFormat):
        rows.append(("NaN and inf codes", f"{told.nan_codes} and {told.inf_codes}"))
    kept = f"{told.storage_dtype.name}, native" if told.is_native else told.storage_dtype.name
    carried = told.carrier is not None and not told.is_native
    return [*rows, ("kept as", kept), *([("computed in", str(told.carrier))] if carried else [])]
