"""What the figures draw, as arrays: loss and its gap to the baseline, loss scale, over steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from precis.report.reasons import first_non_finite
from precis.report.records import Trial
from precis.report.rows import Row

# Enough for a figure 500 pixels wide; a run of a million steps must not make a page of a million
# points.
_POINTS = 240
# Logged steps over which a gap's root mean square is taken: one step's gap crosses zero by chance,
# and a logarithmic axis would show each crossing as a spike.
_WINDOW = 5


@dataclass(frozen=True, slots=True)
class Line:
    """A curve with a band.

    Attributes:
        steps: [n] int64, ascending.
        middle: [n] float64.
        low: [n] float64, lower edge of the band: the lowest seed.
        high: [n] float64, upper edge: the highest seed.
    """

    steps: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, slots=True)
class Loss:
    """The training loss of an arm.

    Attributes:
        seeds: (steps [n], loss [n]) of each seed, finite values only.
        mean: Mean over all seeds, up to the first step that not all of them have.
        ends: (step, last finite loss) of each seed that diverged.
    """

    seeds: tuple[tuple[np.ndarray, np.ndarray], ...]
    mean: tuple[np.ndarray, np.ndarray]
    ends: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """The loss scale of one seed.

    Attributes:
        steps: [n] int64, ascending: the logged steps.
        values: [n] float64, the scale that each of them used.
        skips: (step, scale) of each logged step at which more steps were skipped than at the last.
    """

    steps: np.ndarray
    values: np.ndarray
    skips: tuple[tuple[int, float], ...]


def scales(row: Row) -> tuple[Scale, ...]:
    """The arm's loss scale over steps, seed by seed; empty where the loss is not scaled."""
    return tuple(found for trial in row.trials if (found := _scale(trial)))


def loss(row: Row) -> Loss | None:
    """The arm's training loss over steps; None if nothing was logged.

    The mean ends where the first seed diverges: a mean over the survivors would hide it.
    """
    logged = {trial.dir: _losses(trial) for trial in row.trials}
    kept = [values for values in logged.values() if values]
    if not kept:
        return None
    shared = _shared([row], kept)
    mean = np.array([np.mean([values[step] for values in kept]) for step in shared])
    ends = [
        (step, logged[trial.dir][max(logged[trial.dir])])
        for trial in row.in_state("diverged")
        if logged[trial.dir] and (step := first_non_finite(trial)) is not None
    ]
    seeds = [_thin(np.array(list(v)), np.array(list(v.values()))) for v in kept]
    return Loss(tuple(seeds), _thin(np.array(shared, np.int64), mean), tuple(ends))


def gap(row: Row, baseline: Row) -> Line | None:
    """How far the arm's training loss is from the baseline's at the same step of the same seed.

    `middle` is the root mean square over seeds and over the last few logged steps, so it tells
    size and not direction; the band goes from the nearest seed to the farthest. Same seed means
    same initialization and same batches, so at step 0 only the policy differs.

    Returns:
        The line up to the first step that not every pair has; None without a pair.
    """
    base = {trial.seed: _losses(trial) for trial in baseline.trials}
    arm = {trial.seed: _losses(trial) for trial in row.trials}
    pairs = [(arm[s], base[s]) for s in sorted(arm.keys() & base.keys()) if arm[s] and base[s]]
    if not pairs:
        return None
    shared = _shared([row, baseline], [losses for pair in pairs for losses in pair])
    if not shared:
        return None
    squares = np.array([[(a[s] - b[s]) ** 2 for s in shared] for a, b in pairs])
    seeds = np.sqrt(_rolling_mean(squares))
    middle = np.sqrt(_rolling_mean(squares.mean(axis=0, keepdims=True)))[0]
    keep = _kept(len(shared))
    steps = np.array(shared, np.int64)
    return Line(steps[keep], middle[keep], seeds.min(axis=0)[keep], seeds.max(axis=0)[keep])


def _scale(trial: Trial) -> Scale | None:
    logged = [row for row in trial.train if row.values.get("loss_scale") is not None]
    if not logged:
        return None
    skipped = [int(row.values.get("skipped", 0)) for row in logged]
    more = np.diff(skipped, prepend=0) > 0
    steps = np.array([row.step for row in logged], np.int64)
    values = np.array([float(row.values["loss_scale"]) for row in logged])
    skips = zip(steps[more].tolist(), values[more].tolist(), strict=True)
    return Scale(*_thin(steps, values), tuple(skips))


def _losses(trial: Trial) -> dict[int, float]:
    """The finite losses by step, in order, up to the first that is not finite."""
    found: dict[int, float] = {}
    for row in trial.train:
        value = row.values.get("loss")
        if value is None:
            continue
        if not np.isfinite(value):
            break
        found[row.step] = float(value)
    return found


def _shared(rows: Sequence[Row], losses: Sequence[dict[int, float]]) -> list[int]:
    """The steps that all of `losses` have, before any trial of `rows` diverged."""
    ends = [first_non_finite(trial) for row in rows for trial in row.in_state("diverged")]
    end = min((step for step in ends if step is not None), default=None)
    steps = sorted(set.intersection(*(set(values) for values in losses)))
    return [step for step in steps if end is None or step < end]


def _rolling_mean(rows: np.ndarray) -> np.ndarray:
    """Mean over the last `_WINDOW` entries along the last axis, over fewer at the start."""
    padded = np.pad(rows, ((0, 0), (_WINDOW - 1, 0)))
    totals = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW, axis=1).sum(axis=-1)
    return totals / np.minimum(np.arange(1, rows.shape[1] + 1), _WINDOW)


def _kept(n: int) -> np.ndarray:
    """At most `_POINTS` indices into n, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, _POINTS)).round().astype(np.int64))


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = _kept(len(steps)) if len(steps) else np.array([], np.int64)
    return steps[keep], values[keep]
