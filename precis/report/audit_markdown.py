"""An audit as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precis.report.audit_words import amount, answer, listed, ran, shares

_COLUMNS = ("op", "operands", "product", "out", "grad", "×", "FLOPs", "bytes", "why")


def audit_markdown(record: Mapping[str, Any]) -> str:
    """The record of an audit as Markdown: the answer, the matrix ops, the findings."""
    is_compiled = any(site["ran"] is not None for site in record["sites"])
    columns = [*_COLUMNS, *(["ran"] if is_compiled else [])]
    lines = [
        f"**`{record['policy']}`** is {answer(record)}.",
        "",
        f"By operands: {shares(record)}.",
        "",
        _row(columns),
        _row(["---"] * len(columns)),
        *(_row(_cells(site)[: len(columns)]) for site in record["sites"]),
    ]
    if record["findings"]:
        lines += ["", "Findings:", ""]
    for finding in record["findings"]:
        where = listed(finding["where"].split(", "), record)
        fix = f" ({finding['fix']})" if finding["fix"] else ""
        lines.append(f"- **{finding['kind']}**, {where}: {finding['what']}{fix}")
    return "\n".join(lines) + "\n"


def _cells(site: Mapping[str, Any]) -> list[str]:
    return [
        f"`{site['path']}`",
        site["operands"],
        _product(site),
        site["out"],
        site["grad"],
        str(site["trips"]),
        amount(site["flops"]),
        amount(site["bytes"]) + "B",
        site["reason"],
        ran(site),
    ]


def _product(site: Mapping[str, Any]) -> str:
    asked = [] if site["precision"] == "DEFAULT" else [site["precision"]]
    said = ", ".join([site["product"], *([] if site["native"] else ["emulated"]), *asked])
    there = site["on_cuda"]["product"]
    return said if there == site["product"] else f"{said}; on CUDA {there}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
