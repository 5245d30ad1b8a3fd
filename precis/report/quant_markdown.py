"""A report on a quantized model as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precis.report.audit_words import amount
from precis.report.quant_words import change, decibels, headline, listed, reasons, share

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
    "bytes",
)


def quantized_markdown(record: Mapping[str, Any]) -> str:
    """The record of a report as Markdown: the answer, the weights, and why."""
    lines = [
        f"**{headline(record)}**",
        "",
        _row(_COLUMNS),
        _row(["---"] * len(_COLUMNS)),
        *(_row(_cells(row, record)) for row in record["rows"]),
        "",
    ]
    for reason, paths in reasons(record).items():
        lines.append(f"- {reason}: {listed([f'`{path}`' for path in paths])}")
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
        f"{amount(row['bytes_before'])}B → {amount(row['bytes_after'])}B",
    ]


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"
