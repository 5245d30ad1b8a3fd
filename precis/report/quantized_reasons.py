"""Why a quantized arm is where it is: what was lost before, and what in weights or in inputs."""

from __future__ import annotations

from precis.report.answer import unit
from precis.report.arm_formats import few_bits
from precis.report.reasons import MOSTLY, failed, withheld
from precis.report.rows import Row, TaskTable
from precis.report.words import MINUS, percent, short
from precis.stats import Estimate


def quantized_reasons(table: TaskTable, row: Row) -> tuple[str, ...]:
    """What explains the row's verdict, most telling first; names of formats and arms in backticks.

    What a source that is not the baseline had lost before is always told. Formats, and whether
    weights or inputs are at fault, only where something was lost.
    """
    base = table.baseline
    found = [withheld(row), failed(row), _diverged(table, row), _before(table, row)]
    if base and _is_added(table, row):
        found += [few_bits(row, base, explained=False), _side(table, row)]
    found += [f"{note}." for note in _notes(row)]
    return tuple(text for text in found if text)


def _diverged(table: TaskTable, row: Row) -> str:
    diverged = row.in_state("diverged")
    if not diverged:
        return ""
    ended = row.in_state("finished", "diverged")
    share = f"in {len(diverged)} of {len(ended)} seeds"
    source = _source(table, row)
    before = {trial.seed for trial in source.in_state("diverged")} if source else set()
    if all(trial.seed in before for trial in diverged):
        return f"`{row.arm.of}` diverged while it was trained, {share}."
    return f"Evaluated in few bits, the loss is not finite, {share}."


def _before(table: TaskTable, row: Row) -> str:
    source = _source(table, row)
    if source is None or source.gap is None or row.added is None:
        return ""
    return (
        f"`{row.arm.of}` was {_signed(source.gap)}{unit(table)} off before; quantizing it adds "
        f"{_signed(row.added)} ± {short(row.added.interval().half_width)}."
    )


def _is_added(table: TaskTable, row: Row) -> bool:
    """Whether quantizing itself is shown to make it worse."""
    if row.added is None or not row.added.interval().excludes(0.0):
        return False
    return (row.added.mean > 0) == (table.task.direction == "min")


def _side(table: TaskTable, row: Row) -> str:
    """Whether the weights have lost it, or what they are multiplied with."""
    if row.added is None or row.added_f32 is None:
        return ""
    own, weights = row.added.mean, row.added_f32.mean
    part = weights / own
    if part >= MOSTLY:
        return (
            "The gap is in the weights: multiplied in f32, the values that their codes stand for "
            f"are still {short(abs(weights))}{unit(table)} away."
        )
    if part <= 1 - MOSTLY:
        return (
            "The gap is in the inputs: multiplied in f32, the weights are only "
            f"{short(abs(weights))}{unit(table)} away."
        )
    return f"{percent(part)} of the gap is in the weights, the rest where their inputs are rounded."


def _notes(row: Row) -> tuple[str, ...]:
    """What the records say beside the verdict; where it is withheld, that says it."""
    if row.verdict and row.verdict.kind == "withheld":
        return ()
    return next((trial.notes for trial in row.trials if trial.notes), ())


def _source(table: TaskTable, row: Row) -> Row | None:
    return next((other for other in table.rows if other.arm.name == row.arm.of), None)


def _signed(estimate: Estimate) -> str:
    size = short(abs(estimate.mean))
    return f"{MINUS if estimate.mean < 0 else '+'}{size}"
