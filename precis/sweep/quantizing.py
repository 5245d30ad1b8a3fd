"""What a trial has trained, in few bits: for a trial of its own, and for a command."""

from __future__ import annotations

from typing import Any

from precis import ptq
from precis.ptq import QuantizedModel
from precis.sweep.trained import Trained
from precis.train.evaluate import metrics_of
from precis.types import PyTree

# Enough batches for the largest magnitudes of inputs.
_CALIBRATION_BATCHES = 4


def quantize_trained(
    trained: Trained, modes: ptq.Modes, *, calibrate: str = "absmax", smooth: float | None = None
) -> tuple[QuantizedModel, PyTree]:
    """The task's metrics as a function of parameters in few bits, and those.

    Where a mode has static scales, or columns are smoothed, statistics of inputs are taken over
    the first batches that the trial was trained on, never over those that it is evaluated on.

    Args:
        trained: What was trained.
        modes: How weights run, by path; see `precis.quantize_model`.
        calibrate: What weights are scaled by; likewise.
        smooth: How much of large columns of inputs weights take over; None for nothing.

    Returns:
        `fn(qparams, state, batch)`, scalars by name as of `metrics_of(task)`, and `qparams`.

    Raises:
        ValueError: As `precis.quantize_model`.
    """
    task, params, rules = trained.task, trained.floats, ptq.mode_rules(modes)
    call = metrics_of(task)
    given: dict[str, Any] = {}
    if smooth is not None or any(rule.mode.is_static for rule in rules):
        numbers = range(_CALIBRATION_BATCHES)
        batches = [(trained.state, task.batch(trained.trial.seed, number)) for number in numbers]
        seen = ptq.calibrate(call, params, batches)
        seen = seen if smooth is None else ptq.smooth(params, seen, alpha=smooth)
        given = {"input_amax": seen.amax, "smoothing": seen.smoothing}
    return ptq.quantize_model(call, params, rules, calibrate=calibrate, **given)
