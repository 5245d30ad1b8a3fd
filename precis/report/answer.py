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
    best = min(holding, key=lambda row: _price(row, table))
    bill = _bill(best, table)
    if len(holding) == 1:
        return f"{who} keeps {aim}{f', at {bill}' if bill else ''}."
    return f"{who} keep {aim}{f'; cheapest is `{best.arm.name}`, at {bill}' if bill else ''}."


def _although(table: TaskTable, holding: list[Row]) -> str:
    """In parentheses, who is within the tolerance and yet shown to be worse."""
    worse = [
        f"`{row.arm.name}` is detectably worse, by {short(abs(verdict.gap.mean))}{unit(table)}"
        for row in holding
        if (verdict := row.verdict) and verdict.gap and verdict.detectable == "worse"
    ]
    return f" ({', '.join(worse)})" if worse else ""


def _alone(table: TaskTable) -> str:
    """For a sweep that compares nothing."""
    row = table.baseline
    if row is None or row.own is None:
        return "No arm has a result yet."
    places = decimals([row.own.interval().half_width], [row.own.mean])
    figure = f"`{table.task.metric}` of {number(row.own.mean, places)}{unit(table)}"
    seeds = count(row.own.n, "seed")
    return f"`{row.arm.name}` ends at {figure} over {seeds}; no arm is compared with it."


def _price(row: Row, table: TaskTable) -> tuple[float, float]:
    """By bytes, which are exact; then by step time, where a difference shows."""
    ratio = _step_ratio(row, table)
    return (math.inf if row.bytes is None else row.bytes, 1.0 if ratio is None else ratio)


def _step_ratio(row: Row, table: TaskTable) -> float | None:
    """Step time relative to the baseline's; None unless the two clearly differ.

    The noise floor runs the baseline's program, so what lies between those two is the timing's
    own noise. A difference shows if the middle 80% of steps lie beyond both of theirs.
    """
    same = [r.step_ms for r in table.rows if r.part != "arm" and r.step_ms]
    if row.step_ms is None or not same or table.baseline is None or not table.baseline.step_ms:
        return None
    slowest, fastest = max(s.p90 for s in same), min(s.p10 for s in same)
    if row.step_ms.p10 > slowest or row.step_ms.p90 < fastest:
        return row.step_ms.median / table.baseline.step_ms.median
    return None


def _bill(row: Row, table: TaskTable) -> str:
    base = table.baseline
    parts: list[str] = []
    if (ratio := _step_ratio(row, table)) is not None:
        parts.append(f"{times(ratio)} the step time")
    if base and row.bytes is not None and base.bytes:
        ratio = times(row.bytes / base.bytes)
        if ratio != times(1.0):
            parts.append(f"{ratio} the bytes of parameters and optimizer state")
    return " and ".join(parts)
