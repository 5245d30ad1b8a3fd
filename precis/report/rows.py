"""One row an arm on a task: every figure of the report's table, from the records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from precis.report.records import Arm, Store, Task, Trial
from precis.stats import Estimate, Outcome, Verdict, default_tolerance, judge, paired

Part = Literal["baseline", "noise floor", "arm"]
# The states in which a trial has said its last word on the metric.
ENDED = ("finished", "diverged")


class Spread(NamedTuple):
    """Step times of an arm, in milliseconds: the median over its seeds of each figure.

    Attributes:
        median: Half of the steps took longer.
        p10: One step in ten was faster.
        p90: One step in ten was slower.
    """

    median: float
    p10: float
    p90: float


@dataclass(frozen=True, slots=True)
class Row:
    """An arm on a task.

    Attributes:
        arm: Which arm.
        part: What it is there for.
        trials: Its trials, in the plan's order.
        own: Final metric under its own policy; None without one, or if a seed diverged.
        f32: The same weights evaluated in f32.
        verdict: On its paired gap to the baseline; None for the baseline itself.
        gap_f32: Paired gap of the f32 evaluations: the damage that the weights carry.
        added: Of a quantized arm, its paired gap to the arm whose weights it has; else None.
        added_f32: The same of the f32 evaluations: what rounding the weights alone adds.
        floor_multiple: Size of its gap in multiples of the noise floor's (root mean squares).
        in_force: Smallest share of matrix FLOPs in force over its trials; None if not recorded.
        param_bytes: Of the parameters.
        opt_bytes: Of the optimizer's state.
        step_ms: None if nothing was timed, or if the arm is emulated.
        skipped: Steps that loss scaling skipped, over all seeds.
        taken: Steps taken, skipped ones included, over all seeds.
    """

    arm: Arm
    part: Part
    trials: tuple[Trial, ...]
    own: Estimate | None
    f32: Estimate | None
    verdict: Verdict | None
    gap_f32: Estimate | None
    added: Estimate | None
    added_f32: Estimate | None
    floor_multiple: float | None
    in_force: float | None
    param_bytes: int | None
    opt_bytes: int | None
    step_ms: Spread | None
    skipped: int
    taken: int

    @property
    def gap(self) -> Estimate | None:
        """Paired gap to the baseline under its own policy."""
        return self.verdict.gap if self.verdict else None

    @property
    def bytes(self) -> int | None:
        """Parameters and optimizer state together; a quantized arm has parameters alone."""
        if self.arm.quantize:
            return self.param_bytes
        if self.param_bytes is None or self.opt_bytes is None:
            return None
        return self.param_bytes + self.opt_bytes

    def bytes_beside(self, base: Row) -> float | None:
        """Its bytes over those of `base`, of which a quantized arm has parameters alone."""
        own, other = self.bytes, base.param_bytes if self.arm.quantize else base.bytes
        return own / other if own is not None and other else None

    def in_state(self, *states: str) -> tuple[Trial, ...]:
        """Its trials in one of `states`."""
        return tuple(trial for trial in self.trials if trial.state in states)


@dataclass(frozen=True, slots=True)
class TaskTable:
    """All arms on one task.

    Attributes:
        task: Which task.
        rows: One an arm, in the plan's order.
        tolerance: Absolute, in the metric's unit; None while the baseline gives no default.
        tolerance_is_default: Nobody set it.
        floor: Root mean square of the noise floor's paired gaps; None without that arm.
    """

    task: Task
    rows: tuple[Row, ...]
    tolerance: float | None
    tolerance_is_default: bool
    floor: float | None

    @property
    def baseline(self) -> Row | None:
        """The row that the others are compared with."""
        return next((row for row in self.rows if row.part == "baseline"), None)

    @property
    def judged(self) -> tuple[Row, ...]:
        """The rows that the sweep asks about: neither the baseline nor the noise floor."""
        return tuple(row for row in self.rows if row.part == "arm")


def table(store: Store, task: Task) -> TaskTable:
    """The rows of `task`, judged against the store's baseline.

    An arm without a planned trial on this task has no row.
    """
    ran = {arm.name: store.of(task.label, arm.name) for arm in store.arms}
    base = ran.get(store.baseline, ())
    floor_gap = _gap(ran.get(store.noise_floor or "", ()), base, "metric")
    floor = floor_gap.rms if floor_gap else None
    rows = [_row(store, task, arm, ran, floor=floor) for arm in store.arms if ran[arm.name]]
    tolerance = task.tolerance
    if tolerance is None:
        tolerance = default_tolerance(outcome(base).finite)
    return TaskTable(task, tuple(rows), tolerance, task.tolerance is None, floor)


def outcome(trials: Iterable[Trial], figure: str = "metric") -> Outcome:
    """What the statistics want to know of trials: `figure` by seed, divergence, share in force.

    Failed and unfinished trials are no result, and are left out.
    """
    trials = tuple(trials)
    ended = [trial for trial in trials if trial.state in ENDED]
    values = {t.seed: t.summary.get(figure) for t in ended if t.state == "finished"}
    return Outcome(
        {seed: float(value) for seed, value in values.items() if value is not None},
        frozenset(trial.seed for trial in ended if trial.state == "diverged"),
        in_force(trials),
    )


def in_force(trials: Iterable[Trial]) -> float | None:
    """The smallest share in force that an audit of one of `trials` recorded."""
    return _of(min, (trial.in_force for trial in trials))


def _row(
    store: Store,
    task: Task,
    arm: Arm,
    ran: Mapping[str, tuple[Trial, ...]],
    *,
    floor: float | None,
) -> Row:
    part = _part(store, arm)
    trials, base, source = ran[arm.name], ran.get(store.baseline, ()), ran.get(arm.of, ())
    verdict = None
    if part != "baseline":
        verdict = judge(
            outcome(trials), outcome(base), tolerance=task.tolerance, direction=task.direction
        )
    gap = verdict.gap if verdict else None
    summaries = [trial.summary for trial in trials]
    skipped = sum(summary.get("skipped") or 0 for summary in summaries)
    return Row(
        arm=arm,
        part=part,
        trials=trials,
        own=_estimate(outcome(trials)),
        f32=_estimate(outcome(trials, "metric_f32")),
        verdict=verdict,
        gap_f32=_gap(trials, base, "metric_f32") if part != "baseline" else None,
        added=_gap(trials, source, "metric"),
        added_f32=_gap(trials, source, "metric_f32"),
        floor_multiple=gap.rms / floor if gap and floor else None,
        in_force=in_force(trials),
        param_bytes=_of(max, (summary.get("param_bytes") for summary in summaries)),
        opt_bytes=_of(max, (summary.get("opt_bytes") for summary in summaries)),
        step_ms=None if arm.emulated else _spread(trials),
        skipped=skipped,
        taken=skipped + sum(summary.get("applied") or 0 for summary in summaries),
    )


def _part(store: Store, arm: Arm) -> Part:
    if arm.name == store.baseline:
        return "baseline"
    return "noise floor" if arm.name == store.noise_floor else "arm"


def _estimate(result: Outcome) -> Estimate | None:
    """The mean over seeds; a mean over the survivors of a divergence is not given."""
    return Estimate.of(result.values.values()) if result.values and not result.lost else None


def _gap(trials: Iterable[Trial], base: Iterable[Trial], figure: str) -> Estimate | None:
    arm = outcome(trials, figure)
    return None if arm.lost else paired(arm.finite, outcome(base, figure).finite)


def _spread(trials: Iterable[Trial]) -> Spread | None:
    names = ("step_ms_median", "step_ms_p10", "step_ms_p90")
    timed = [[trial.summary.get(name) for name in names] for trial in trials]
    complete = np.array([times for times in timed if None not in times], np.float64)
    return Spread(*np.median(complete, axis=0).tolist()) if complete.size else None


def _of(choose: Callable[[list[Any]], Any], values: Iterable[Any]) -> Any:
    known = [value for value in values if value is not None]
    return choose(known) if known else None
