"""The answer before the table: which arms hold, at what price, and which do not."""

from __future__ import annotations

import math
from typing import NamedTuple

from precis.report.rows import Row, TaskTable
from precis.report.words import (
    NO_BREAK,
    NOTHING,
    count,
    decimals,
    names,
    number,
    percent,
    short,
    times,
)
from precis.stats import Kind, Verdict

_HOLDS: tuple[Kind, ...] = ("within tolerance", "better")
# In the order in which a reader wants to know.
_KINDS: tuple[Kind, ...] = (*_HOLDS, "inconclusive", "worse", "diverges", "withheld")
# Beyond this many the exact number of seeds is no plan any more.
_MANY_SEEDS = 1000


class Point(NamedTuple):
    """The arms that share a verdict.

    Attributes:
        kind: The verdict.
        arms: (name, small print) of each.
    """

    kind: Kind
    arms: tuple[tuple[str, str], ...]


class Answer(NamedTuple):
    """What somebody in a hurry reads.

    Attributes:
        lead: One sentence; names in backticks.
        points: One for each verdict that occurs.
    """

    lead: str
    points: tuple[Point, ...]


def answer(table: TaskTable) -> Answer:
    """The answer that `table` gives; without results it says that there are none."""
    judged = [(row, row.verdict.kind) for row in table.judged if row.verdict]
    points = (
        Point(kind, tuple((row.arm.name, detail(table, row)) for row, its in judged if its == kind))
        for kind in _KINDS
    )
    return Answer(_lead(table), tuple(point for point in points if point.arms))


def badge(row: Row) -> str:
    """The word for the row's verdict; the baseline has none and is called what it is."""
    return row.verdict.kind if row.verdict else row.part


def detail(table: TaskTable, row: Row) -> str:
    """The small print under a verdict: the gap, the rate, or what would decide."""
    verdict = row.verdict
    if verdict is None:
        return ""
    size = f"{short(abs(verdict.gap.mean))}{unit(table)}" if verdict.gap else ""
    match verdict.kind:
        case "within tolerance":
            return f"detectably {verdict.detectable} by {size}" if verdict.detectable else ""
        case "worse" | "better":
            return f"by {size}"
        case "diverges":
            low, high = verdict.rate or (0.0, 1.0)
            rate = f"rate {percent(low)} to {percent(high)}"
            return f"{verdict.diverged} of {count(verdict.n, 'seed')}, {rate}"
        case "withheld":
            return verdict.reason
        case "inconclusive":
            return "; ".join(part for part in (verdict.reason, _wanted(verdict)) if part)


def tolerance(table: TaskTable) -> str:
    """The tolerance with its unit, as `±0.02 bits/byte`; a dash while there is none."""
    if table.tolerance is None:
        return NOTHING
    return f"±{short(table.tolerance)}{unit(table)}"


def unit(table: TaskTable) -> str:
    """The metric's unit after a blank that no line breaks at, or nothing."""
    return f"{NO_BREAK}{table.task.unit}" if table.task.unit else ""


def _wanted(verdict: Verdict) -> str:
    wanted = verdict.seeds_wanted
    # Of one pair or none the spread is unknown, and the reason already says how many are needed.
    if verdict.n < 2:
        return ""
    if wanted is None:
        return "the gap lies on the tolerance: more seeds would not decide"
    if wanted > _MANY_SEEDS:
        return f"more than {_MANY_SEEDS} seeds would decide"
    return f"about {wanted} seeds would decide"


def _lead(table: TaskTable) -> str:
    base = f"`{table.baseline.arm.name}`" if table.baseline else "the baseline"
    aim = f"`{table.task.metric}` within {tolerance(table)} of {base}"
    if not table.judged:
        return _alone(table)
    if not any(row.in_state("finished", "diverged") for row in table.judged):
        return "No arm has a result yet."
    holding = [row for row in table.judged if row.verdict and row.verdict.kind in _HOLDS]
    if not holding:
        return f"No arm is shown to keep {aim}."
    if any(row.verdict and row.verdict.kind == "better" for row in holding):
        aim += ", or better"
    who = names([row.arm.name for row in holding])
    aim += _although(table, holding)
    best, bill = _smallest(table, holding)
    if len(holding) == 1:
        return f"{who} keeps {aim}{f', at {bill}' if bill else ''}."
    return f"{who} keep {aim}{f'; smallest is `{best.arm.name}`, at {bill}' if bill else ''}."


def _although(table: TaskTable, holding: list[Row]) -> str:
    """In parentheses, who is within the tolerance and yet shown to be worse."""
    worse = [
        f"`{row.arm.name}` by {short(abs(verdict.gap.mean))}{unit(table)}"
        for row in holding
        if (verdict := row.verdict) and verdict.gap and verdict.detectable == "worse"
    ]
    return f" (detectably worse: {', '.join(worse)})" if worse else ""


def _alone(table: TaskTable) -> str:
    """For a sweep that compares nothing."""
    row = table.baseline
    if row is None or row.own is None:
        return "No arm has a result yet."
    places = decimals([row.own.interval().half_width], [row.own.mean])
    figure = f"`{table.task.metric}` of {number(row.own.mean, places)}{unit(table)}"
    seeds = count(row.own.n, "seed")
    return f"`{row.arm.name}` ends at {figure} over {seeds}; no arm is compared with it."


def _smallest(table: TaskTable, holding: list[Row]) -> tuple[Row, str]:
    """The smallest of the arms that hold, and what it saves.

    Quantized arms have no optimizer state; where one of them holds, parameters are compared.
    """
    are_quantized = any(row.arm.quantize for row in holding)

    def size(row: Row) -> int | None:
        return row.param_bytes if are_quantized else row.bytes

    def or_infinite(row: Row) -> float:
        found = size(row)
        return math.inf if found is None else found

    best, base = min(holding, key=or_infinite), table.baseline
    what = "parameters" if are_quantized else "parameters and optimizer state"
    return best, _bill(size(best), size(base) if base else None, what)


def _bill(own: int | None, base: int | None, what: str) -> str:
    """What an arm saves in bytes, which are exact.

    Step times are not: trials run side by side, and one that has the machine to itself looks
    twice as fast. The table shows them; no sentence is built on them.
    """
    if own is None or not base:
        return ""
    ratio = times(own / base)
    return "" if ratio == times(1.0) else f"{ratio} the bytes of {what}"
