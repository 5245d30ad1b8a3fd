"""What a report on a quantized model says in words, whatever it is printed on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from precis.report.words import MINUS, NOTHING, byte_unit, in_unit, number


def headline(record: Mapping[str, Any]) -> str:
    """What it saved, and what it cost.

    >>> headline({"bytes_before": 4096, "bytes_after": 1024, "output_db": 38.04,
    ...           "loss_before": 2.0, "loss_after": 2.012})
    '4.00 → 1.00 KiB (4.0 times smaller), output SQNR 38.0 dB, loss 2 → 2.012 (+0.012)'
    """
    before, after = record["bytes_before"], record["bytes_after"]
    unit = byte_unit([before])
    parts = [
        f"{in_unit(before, unit)} → {in_unit(after, unit)} {unit[1]} "
        f"({before / after:.1f} times smaller)",
    ]
    if record["output_db"] is not None:
        parts.append(f"output SQNR {decibels(record['output_db'])} dB")
    if record["loss_before"] is not None:
        gap = change(record["loss_after"], record)
        parts.append(f"loss {record['loss_before']:.5g} → {record['loss_after']:.5g} ({gap})")
    return ", ".join(parts)


def decibels(value: float | None) -> str:
    """An SQNR: `∞` where nothing was lost, `NaN` where it cannot be told.

    >>> decibels(41.23), decibels(float("inf")), decibels(None), decibels(float("nan"))
    ('41.2', '∞', '–', 'NaN')
    """
    return "NaN" if value is not None and math.isnan(value) else number(value, 1)


def share(value: float) -> str:
    """A share in percent; what is not none of it says so.

    >>> share(0.0), share(0.0001), share(0.0123)
    ('0', '<0.1%', '1.2%')
    """
    if not value:
        return "0"
    return "<0.1%" if value < 5e-4 else f"{value:.1%}"


def change(loss: float | None, record: Mapping[str, Any]) -> str:
    """How far a loss is from that in float, with a sign.

    >>> change(1.5, {"loss_before": 2.0}), change(None, {"loss_before": None})
    ('−0.5', '–')
    """
    if loss is None or record["loss_before"] is None:
        return NOTHING
    return f"{loss - record['loss_before']:+.2g}".replace("-", MINUS)


def reasons(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Each rule with the weights that it brought to few bits; each reason for what stays."""
    found: dict[str, list[str]] = {}
    for row in record["rows"]:
        found.setdefault(f"rule {row['rule']!r}, stored as {row['format']}", []).append(row["path"])
    for path, reason in record["kept"].items():
        found.setdefault(f"in float, {reason}", []).append(path)
    return found
