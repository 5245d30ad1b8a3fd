"""The verdict on an arm: what its paired gap to the baseline says, against a tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from precis.stats.interval import Estimate, Interval, paired, rate_interval
from precis.stats.wanted import BEYOND_LEVEL, MIN_SEEDS, WITHIN_LEVEL, seeds_to_decide

Direction = Literal["min", "max"]
Kind = Literal["within tolerance", "worse", "better", "inconclusive", "diverges", "withheld"]

# A program of which more than one FLOP in twenty ran otherwise than its policy says is not a
# measurement of that policy.
MIN_IN_FORCE = 0.95
# A default has to be something; the report says that nobody chose it.
DEFAULT_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one arm ended on one task.

    Attributes:
        values: Final metric by seed, of the trials that finished.
        diverged: Seeds whose trial diverged. A value that is not finite counts as diverged too.
        in_force: Share of matrix FLOPs that ran as the policy says; None if nobody looked.
    """

    values: Mapping[int, float]
    diverged: frozenset[int] = frozenset()
    in_force: float | None = 1.0

    @property
    def lost(self) -> frozenset[int]:
        """Every seed that ended without a finite metric."""
        broken = {seed for seed, value in self.values.items() if not math.isfinite(value)}
        return self.diverged | broken

    @property
    def finite(self) -> dict[int, float]:
        """The metric of the other seeds."""
        lost = self.lost
        return {seed: value for seed, value in self.values.items() if seed not in lost}

    @property
    def n(self) -> int:
        """Seeds that have a result, diverged ones included."""
        return len(self.lost | self.values.keys())


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said, and on what grounds.

    Attributes:
        kind: One of `Kind`'s words; `withheld` is no verdict.
        n: Pairs of seeds it stands on (for `diverges`: seeds with a result).
        gap: Paired differences `arm - baseline`; None if there are none, or if a seed diverged,
            for a mean over the survivors would leave out the bad news.
        tolerance: Absolute, in the metric's unit; None if the baseline gives no default.
        tolerance_is_default: Nobody set it: it is 1% of the baseline's mean.
        detectable: For `within tolerance`: the gap is small, yet the 95% interval excludes 0.
        seeds_wanted: For `inconclusive`: how many seeds would decide; None if no number would.
        diverged: How many of `n` seeds diverged.
        rate: 95% interval of the divergence rate, where a seed diverged.
        reason: Why it is withheld, or why it could not decide; empty otherwise.
    """

    kind: Kind
    n: int
    gap: Estimate | None = None
    tolerance: float | None = None
    tolerance_is_default: bool = False
    detectable: Literal["worse", "better"] | None = None
    seeds_wanted: int | None = None
    diverged: int = 0
    rate: Interval | None = None
    reason: str = ""


def default_tolerance(baseline: Mapping[int, float]) -> float | None:
    """1% of the size of the baseline's mean metric; None without a finite one.

    >>> default_tolerance({0: 1.0, 1: 3.0})
    0.02
    """
    values = [value for value in baseline.values() if math.isfinite(value)]
    return DEFAULT_SHARE * abs(float(np.mean(values))) if values else None


def judge(
    arm: Outcome, baseline: Outcome, *, tolerance: float | None, direction: Direction
) -> Verdict:
    """The verdict on `arm` against `baseline`.

    A 90% interval of the paired gap inside the tolerance is `within tolerance`; a 95% interval
    wholly beyond it is `worse` or `better`, by `direction`; all else is `inconclusive`. A seed
    that diverged is never dropped: it makes the arm `diverges`. Nothing is said of an arm (or
    against a baseline) whose program did not run what its policy claims.

    Args:
        arm: How the arm ended.
        baseline: How the baseline ended, on the same task.
        tolerance: Absolute, in the metric's unit; None for `default_tolerance`.
        direction: Whether a good metric is small ("min") or large ("max").

    Returns:
        The verdict. `judge(a, b, direction="max")` says of the metric what `direction="min"`
        says of its negative.

    Raises:
        ValueError: The tolerance is negative or NaN, or the direction is neither word.

    >>> base = Outcome({0: 1.00, 1: 1.10, 2: 1.05})
    >>> judge(Outcome({0: 1.31, 1: 1.40, 2: 1.35}), base, tolerance=0.02, direction="min").kind
    'worse'
    """
    if direction not in ("min", "max"):
        raise ValueError(f"a direction is 'min' or 'max', got {direction!r}")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"a tolerance is a number of at least 0, got {tolerance}")
    limit = default_tolerance(baseline.finite) if tolerance is None else float(tolerance)
    lost = len(arm.lost)
    gap = None if lost else paired(arm.finite, baseline.finite)
    ground = Verdict(
        "inconclusive",
        n=arm.n if lost else (gap.n if gap else 0),
        gap=gap,
        tolerance=limit,
        tolerance_is_default=tolerance is None,
        diverged=lost,
        rate=rate_interval(lost, arm.n) if lost else None,
    )
    if reason := _withheld(arm, "its") or _withheld(baseline, "the baseline's"):
        return replace(ground, kind="withheld", reason=reason)
    if lost:
        return replace(ground, kind="diverges")
    if baseline.lost:
        reason = f"the baseline diverged in {len(baseline.lost)} of {baseline.n} seeds"
        return replace(ground, kind="withheld", reason=reason)
    return _decide(ground, direction)


def _withheld(outcome: Outcome, whose: str) -> str:
    if outcome.in_force is None:
        return f"{whose} share of matrix FLOPs in force is not recorded" if outcome.n else ""
    if outcome.in_force >= MIN_IN_FORCE:
        return ""
    return f"only {outcome.in_force:.0%} of {whose} matrix FLOPs ran as the policy says"


def _decide(ground: Verdict, direction: Direction) -> Verdict:
    gap, tolerance = ground.gap, ground.tolerance
    if gap is None or tolerance is None:
        reason = "no finished pair of seeds"
        return replace(ground, reason=reason, seeds_wanted=MIN_SEEDS)
    wanted = seeds_to_decide(gap, tolerance)
    if gap.n < MIN_SEEDS:
        return replace(ground, reason=f"fewer than {MIN_SEEDS} seeds", seeds_wanted=wanted)
    wide, narrow = gap.interval(BEYOND_LEVEL), gap.interval(WITHIN_LEVEL)
    side = "worse" if (gap.mean > 0) == (direction == "min") else "better"
    if -tolerance <= narrow.low and narrow.high <= tolerance:
        detectable = side if wide.excludes(0.0) else None
        return replace(ground, kind="within tolerance", detectable=detectable)
    if wide.low > tolerance or wide.high < -tolerance:
        return replace(ground, kind=side)
    return replace(ground, seeds_wanted=wanted)
