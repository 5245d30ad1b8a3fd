"""A report on a quantized model as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precis.report.quant_words import change, decibels, headline, reasons, share
from precis.report.words import byte_unit, first_few, in_unit

_COLUMNS = (
    "weight",
    "mode",
    "weight, dB",
    "output alone, dB",
    "all so far, dB",
    "Δloss alone",
    "all so far",
    "clipped",
    "zeros",
)


def quantized_markdown(record: Mapping[str, Any]) -> str:
    """The record of a report as Markdown: the answer, the weights, and why."""
    unit = byte_unit(row["bytes_before"] for row in record["rows"])
    lines = [
        f"**{headline(record)}**",
        "",
        _row([*_COLUMNS, unit[1]]),
        _row(["---"] * (len(_COLUMNS) + 1)),
        *(_row([*_cells(row, record), _sizes(row, unit)]) for row in record["rows"]),
        "",
    ]
    for reason, paths in reasons(record).items():
        lines.append(f"- {reason}: {first_few([f'`{path}`' for path in paths])}")
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    return [
        f"`{row['path']}`",
        row["mode"],
        decibels(row["weight_db"]),
        decibels(row["alone_db"]),
        decibels(row["cumulative_db"]),
        change(row["loss_alone"], record),
        change(row["loss_cumulative"], record),
        share(row["clipped"]),
        share(row["zeros"]),
    ]


def _sizes(row: Mapping[str, Any], unit: tuple[int, str]) -> str:
    return f"{in_unit(row['bytes_before'], unit)} → {in_unit(row['bytes_after'], unit)}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
