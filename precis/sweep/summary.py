"""`summary.json`: a trial's final figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np


class Clock(NamedTuple):
    """What was measured of time, in this process only.

    Attributes:
        compile_s: Seconds that the first step took, compilation and all; 0 if it found itself
            compiled.
        step_ms: Mean milliseconds a step, of each stretch between two looks at the device.
    """

    compile_s: float
    step_ms: Sequence[float]


def summarize(
    rows: Sequence[Mapping[str, Any]],
    *,
    metric: str,
    clock: Clock,
    sizes: Mapping[str, int | None],
    steps: int,
    diverged_at: int | None,
) -> dict[str, Any]:
    """The final figures, from the rows of `metrics.jsonl` and what they do not hold.

    All but the times follow from the rows, so that they are the same however often the trial
    was broken off. What there is nothing to say of is None.

    Args:
        rows: All rows, those of evaluations among them.
        metric: The name of the metric that decides.
        clock: Times.
        sizes: `param_bytes` and `opt_bytes`.
        steps: Steps taken.
        diverged_at: The step that diverged.
    """
    train = [row for row in rows if "eval" not in row]
    # A run that diverged in training has no final evaluation, whatever was evaluated before.
    last = rows[-1].get("eval", {}) if rows else {}
    own, f32 = last.get("own", {}), last.get("f32", {})
    skipped = train[-1].get("skipped", 0) if train else 0
    return {
        "metric": own.get(metric),
        "metric_f32": f32.get(metric),
        "metrics": own,
        "train_loss": _tail_mean(_column(train, "loss")),
        **_times(clock),
        **sizes,
        "skipped": skipped,
        "applied": steps - skipped,
        "diverged_at": diverged_at,
        "grad_zero_median": _median(_column(train, "grad_zero")),
        "update_lost_median": _median(_column(train, "update_lost")),
        "loss_scale_final": train[-1].get("loss_scale") if train else None,
    }


def _times(clock: Clock) -> dict[str, float | None]:
    names = ("step_ms_median", "step_ms_p10", "step_ms_p90")
    found = np.quantile(clock.step_ms, [0.5, 0.1, 0.9]).tolist() if clock.step_ms else []
    return dict(zip_longest(names, found)) | {"compile_s": clock.compile_s}


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The finite values of a column; a non-finite one is a word in strict JSON."""
    values = [row.get(name) for row in rows]
    return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]


def _tail_mean(values: Sequence[float]) -> float | None:
    """The mean of the last tenth: one batch's loss is mostly that batch."""
    tail = values[-max(1, len(values) // 10) :]
    return math.fsum(tail) / len(tail) if tail else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
