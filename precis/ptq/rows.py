"""`Report`: what each weight lost in few bits and what that saved, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One weight in few bits, all its layers together.

    Attributes:
        path: Its path.
        mode: What its matrix op runs as.
        format: What it is stored in.
        rule: The pattern of the rule that said so.
        weight_db: SQNR of the dequantized weight; infinite if it is the weight, bit for bit.
        alone_db: SQNR of the model's output with this weight in few bits and no other; None if
            that was not asked for.
        cumulative_db: Likewise, with this weight and all that come before it in the program.
        loss_alone: The loss in the first case, if a loss was given.
        loss_cumulative: The loss in the second.
        clipped: Share of numbers beyond the largest that their group can hold.
        zeros: Share of numbers that are 0 when they are dequantized.
        bytes_before: Bytes of the weight.
        bytes_after: Bytes of codes and scales, and of what is known of its inputs.
    """

    path: str
    mode: str
    format: str
    rule: str
    weight_db: float
    alone_db: float | None
    cumulative_db: float | None
    loss_alone: float | None
    loss_cumulative: float | None
    clipped: float
    zeros: float
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A model in few bits, beside what it was.

    Attributes:
        rows: The weights in few bits, in program order.
        kept: Why each other parameter of two axes or more stays in float, by path.
        bytes_before: Bytes of all parameters.
        bytes_after: The same of those in few bits.
        output_db: SQNR of the model's output with all weights in few bits; None where only
            weights were looked at.
        loss_before: The loss in float, if a loss was given.
        loss_after: The loss in few bits.
    """

    rows: tuple[Row, ...]
    kept: dict[str, str]
    bytes_before: int
    bytes_after: int
    output_db: float | None
    loss_before: float | None
    loss_after: float | None

    def record(self) -> dict[str, Any]:
        """All of it as plain data, for what prints it; SQNRs may be infinite, or NaN."""
        return asdict(self)
