"""A report on a quantized model in a terminal, eighty columns wide or more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from precis.report.quant_words import change, decibels, headline, reasons, share
from precis.report.words import byte_unit, first_few, in_unit

_NOTE = (
    "dB: SQNR of the weight; of the output, with that weight alone in few bits, and with all "
    "down to it. Δloss: with that weight alone."
)


def print_quantized(record: Mapping[str, Any], console: Console, *, title: str = "") -> None:
    """Prints the record of a report: the answer, the weights, why each is what it is."""
    if title:
        console.print(Text(title, "bold"))
    console.print(Text(headline(record), "bold green"))
    console.print(_table(record))
    if _has_outputs(record):
        console.print(Text(_NOTE, "dim"))
    for reason, paths in reasons(record).items():
        console.print(Text.assemble((f"{reason}: ", "bold"), first_few(paths)))


def _table(record: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    unit = byte_unit(row["bytes_before"] for row in record["rows"])
    has_outputs = _has_outputs(record)
    has_loss = has_outputs and record["loss_before"] is not None
    table.add_column("weight", overflow="fold", min_width=16)
    table.add_column("mode", overflow="fold")
    table.add_column("dB", justify="right", no_wrap=True)
    if has_outputs:
        table.add_column("alone", justify="right", no_wrap=True)
        table.add_column("so far", justify="right", no_wrap=True)
    if has_loss:
        table.add_column("Δloss", justify="right", no_wrap=True)
    table.add_column("clip", justify="right", no_wrap=True)
    table.add_column("zero", justify="right", no_wrap=True)
    table.add_column(unit[1], justify="right", no_wrap=True)
    for row in record["rows"]:
        outputs = [decibels(row["alone_db"]), decibels(row["cumulative_db"])] if has_outputs else []
        table.add_row(
            Text(row["path"]),
            row["mode"],
            decibels(row["weight_db"]),
            *outputs,
            *([change(row["loss_alone"], record)] if has_loss else []),
            share(row["clipped"]),
            share(row["zeros"]),
            in_unit(row["bytes_after"], unit),
        )
    return table


def _has_outputs(record: Mapping[str, Any]) -> bool:
    return any(row["alone_db"] is not None for row in record["rows"])
