"""Why an arm is worse or diverged: what its records say beside the baseline's."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from precis.report.arm_formats import few_bits, float_formats, narrow_format
from precis.report.powers import power
from precis.report.records import Trial
from precis.report.rows import Row, TaskTable
from precis.report.words import count, one_part, percent, short

# A share has to stand out by this much before it is offered as a cause: five entries in a hundred
# more than the baseline's is beyond what two seeds of one policy differ by.
_STANDS_OUT = 0.05
# Roles whose formats gradients can fall out of, the likeliest cause first.
_CUTTING = ("c", "x", "g", "gx", "gw", "p")
# A gap of which four fifths are on one side is said to be from that side.
MOSTLY = 0.8


def reasons(table: TaskTable, row: Row) -> tuple[str, ...]:
    """What explains the row's verdict, most telling first; names of formats and arms in backticks.

    What was measured comes from the trials' records and is set against the baseline's, and is said
    of every arm where it stands out. Facts of the formats are offered only beside a loss of
    quality.
    """
    base = table.baseline
    if row.verdict is None or base is None:
        return tuple(text for text in (failed(row), _diverged(row)) if text)
    measured = [_diverged(row), _zero_gradients(row, base), _lost_updates(row, base)]
    found = [withheld(row), failed(row), *measured]
    if row.verdict.kind in ("worse", "diverges") or row.verdict.detectable == "worse":
        found += [few_bits(row, base, explained=any(measured)), _side(table, row)]
    found.append(_skipped(row))
    return tuple(text for text in found if text)


def first_non_finite(trial: Trial) -> int | None:
    """The step at which the trial diverged, as its summary or else its log says."""
    step = trial.summary.get("diverged_at")
    if step is not None:
        return int(step)
    losses = ((row.step, row.values.get("loss")) for row in trial.train)
    logged = (s for s, loss in losses if loss is not None and not math.isfinite(loss))
    return next(logged, trial.step if trial.state == "diverged" else None)


def withheld(row: Row) -> str:
    """Why no verdict is given; "" if one is."""
    if not row.verdict or row.verdict.kind != "withheld":
        return ""
    notes = next((trial.notes for trial in row.trials if trial.notes), ())
    told = f" ({'; '.join(notes)})" if notes else ""
    return f"No verdict: {row.verdict.reason}{told}."


def failed(row: Row) -> str:
    """Which seeds raised what; "" if none did."""
    trials = row.in_state("failed")
    if not trials:
        return ""
    seeds = ", ".join(str(trial.seed) for trial in trials)
    return f"Seed {seeds} raised: {trials[0].error or 'see its traceback'}"


def _diverged(row: Row) -> str:
    diverged = row.in_state("diverged")
    if not diverged:
        return ""
    ended = row.in_state("finished", "diverged")
    steps = sorted({step for t in diverged if (step := first_non_finite(t)) is not None})
    when = f"step {steps[0]}" if len(steps) == 1 else f"steps {', '.join(map(str, steps))}"
    text = f"The loss stopped being finite at {when}, in {len(diverged)} of {len(ended)} seeds"
    narrow = narrow_format(row.trials)
    if others := [key for key in row.arm.recipe if key != "loss_scale"]:
        changed = ", ".join(f"`{key}={row.arm.recipe[key]}`" for key in others)
        return f"{text}; its recipe has {changed}, so the policy need not be the cause."
    if narrow is None:
        return f"{text}."
    key, fmt = narrow
    if any(map(_scaled, diverged)):
        return f"{text}, although the loss was scaled: `{key}={fmt}` ends at {fmt.max:g}."
    return (
        f"{text}: `{key}={fmt}` ends at {fmt.max:g} and no loss scale is in use, so a "
        "gradient that overflows is applied, where loss scaling would skip that step."
    )


def _scaled(trial: Trial) -> bool:
    """Whether a loss scale was in use, by the summary or, before there is one, by the log."""
    ended = trial.summary.get("loss_scale_final") is not None
    return ended or any("loss_scale" in line.values for line in trial.train)


def _zero_gradients(row: Row, base: Row) -> str:
    arm, plain = _median(row.trials, "grad_zero"), _median(base.trials, "grad_zero")
    if arm is None or plain is None or arm - plain < _STANDS_OUT:
        return ""
    text = f"{percent(arm)} of all gradient entries are exactly zero (baseline: {percent(plain)})"
    narrow = narrow_format(row.trials, _CUTTING)
    if narrow is None:
        return f"{text}."
    key, fmt = narrow
    below = f"they fall below the smallest value of `{key}={fmt}`, {short(fmt.smallest_subnormal)}"
    return f"{text}: {below}."


def _lost_updates(row: Row, base: Row) -> str:
    arm, plain = _median(row.trials, "update_lost"), _median(base.trials, "update_lost")
    if arm is None or plain is None or arm - plain < _STANDS_OUT:
        return ""
    text = (
        f"{percent(arm)} of all updates that are not zero leave their parameter as it was "
        f"(baseline: {percent(plain)})"
    )
    stored = float_formats(row.trials, ("p",))
    if not stored:
        return f"{text}."
    key, fmt = max(stored.items(), key=lambda item: item[1].eps)
    # Half the distance to the next value is eps / 2 to eps / 4 of a value, by its place in the
    # binade; what is smaller than the latter rounds away wherever it lands.
    return (
        f"{text}: `{key}={fmt}` keeps {fmt.mantissa_bits} mantissa bits, so an update smaller "
        f"than {one_part(fmt.eps / 4)} of its parameter rounds away."
    )


def _side(table: TaskTable, row: Row) -> str:
    """Whether the weights are bad, or good weights are evaluated badly."""
    if not row.gap or not row.gap_f32 or not row.gap.interval().excludes(0.0):
        return ""
    own, f32 = row.gap.mean, row.gap_f32.mean
    unit = f" {table.task.unit}" if table.task.unit else ""
    part = f32 / own
    if part >= MOSTLY:
        return (
            f"The gap arises in training: evaluated in f32, its weights are still "
            f"{short(abs(f32))}{unit} away from the baseline's."
        )
    if part <= 1 - MOSTLY:
        return (
            f"The gap arises in evaluation: in f32 its weights are only {short(abs(f32))}"
            f"{unit} away from the baseline's, under its own policy {short(abs(own))}."
        )
    return (
        f"{percent(part)} of the gap arises in training and the rest in evaluation: in f32 "
        f"it is {short(abs(f32))}{unit} instead of {short(abs(own))}."
    )


def _skipped(row: Row) -> str:
    if not row.skipped:
        return ""
    ends = [trial.summary.get("loss_scale_final") for trial in row.trials]
    scales = sorted({scale for scale in ends if scale})
    end = (
        f"; the scale ended at {' and '.join(power(s) or f'{s:g}' for s in scales)}"
        if scales
        else ""
    )
    return f"Loss scaling skipped {count(row.skipped, 'step')} of {row.taken}{end}."


def _median(trials: Iterable[Trial], name: str) -> float | None:
    """The median over seeds of a share, from the summaries or else from the logged steps."""
    found = []
    for trial in trials:
        value = trial.summary.get(f"{name}_median")
        if value is None or not math.isfinite(value):
            logged = [line.values.get(name) for line in trial.train]
            finite = [v for v in logged if v is not None and math.isfinite(v)]
            value = float(np.median(finite)) if finite else None
        if value is not None:
            found.append(value)
    return float(np.median(found)) if found else None
