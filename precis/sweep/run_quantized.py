"""One quantized trial: what its source has trained, in few bits, evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from precis.policy import KEYS, read_policy
from precis.ptq import ModeRule, QuantizedModel
from precis.quant import dequantize
from precis.sweep.journal import Journal
from precis.sweep.program import Loaded, task_record
from precis.sweep.quantizing import quantize_trained
from precis.sweep.status import State, is_done, read_status
from precis.sweep.store.metrics import read_rows
from precis.sweep.store.strict import read_json, write_json
from precis.sweep.summary import Clock, summarize
from precis.sweep.trained import Trained, restore_trained
from precis.sweep.trial import Quantized, Trial, from_json
from precis.train.evaluate import averaging
from precis.train.fit import init_key
from precis.tree import nbytes
from precis.types import PyTree
from precis.walk import Audit, audit

_NOT_TIMED = Clock(compile_s=0.0, step_ms=())
# The roles that a model has that is not trained.
_FORWARD = ("p", "c", "k", "x", "o", "a", "s")
# What an audit finds in a compiled program that a reader of a verdict should know.
_NOTED = ("dequantized", "ran otherwise", "not found", "unnamed")


class Shared(NamedTuple):
    """What trials share that differ in seed and source alone.

    Attributes:
        evaluate: Evaluation of parameters in few bits; compiles when it is first called.
        record: `policy.json`.
    """

    evaluate: Callable[[PyTree, PyTree], dict[str, float]]
    record: dict[str, Any]


def run_quantized(
    folder: Path,
    trial: Trial,
    loaded: Loaded,
    *,
    source: Path,
    shared: Shared | None,
    journal: Journal,
) -> Shared | None:
    """Quantizes what the trial in `source` has trained, evaluates it, and records the result.

    It is evaluated as its mode runs, and in float32 with the weights that the codes stand for: so
    what rounding weights costs is told from what rounding inputs does.

    A source that diverged makes the trial diverge. One that has no result yet leaves it pending.

    Args:
        folder: The trial's folder.
        trial: What to run; `trial.quantized` is set.
        loaded: Its task.
        source: The folder of its source.
        shared: What an earlier call returned for a trial of the same `Trial.program`, or None.
        journal: Writes the trial's status, rows and log.

    Returns:
        What the next trial of the same program can share.

    Raises:
        ValueError: The source failed; or what `precis.quantize_model` raises.
    """
    assert trial.quantized is not None
    before = read_status(source)
    if before.state == "failed":
        raise ValueError(f"{source.name}, which it quantizes, failed: {before.error}")
    if not is_done(source):
        journal.say(f"waits for {source.name}, which is {before.state}")
        journal.status("pending", 0)
        return shared
    how, is_lost = trial.quantized, before.state == "diverged"
    trained = _weights(source, loaded, is_lost=is_lost)
    fn, qparams = quantize_trained(trained, how.mode, calibrate=how.calibrate, smooth=how.smooth)
    if shared is None:
        batch = loaded.task.eval_batches()[0]
        found = audit(fn.call, qparams, trained.state, batch, policy=fn.policy, compiled=True)
        record = quantized_record(how, fn, found, trained_under=trial.policy)
        shared = Shared(averaging(loaded.task, fn), record)
    journal.resume(after=-1)
    write_json(folder / "task.json", task_record(loaded.task))
    write_json(folder / "policy.json", shared.record)
    journal.say(f"{how.mode} of {source.name}: {shared.record['in_force']:.1%} in force")
    size = nbytes(qparams)
    if is_lost:
        _finish(folder, loaded, journal=journal, param_bytes=size, diverged_at=before.step)
        return shared
    own = shared.evaluate(qparams, trained.state)
    f32 = loaded.evaluate_f32(dequantize(qparams), trained.state)
    journal.rows([{"step": trained.step, "eval": {"own": own, "f32": f32}}])
    is_finite = math.isfinite(own[loaded.task.metric[0]])
    _finish(
        folder,
        loaded,
        journal=journal,
        param_bytes=size,
        diverged_at=None if is_finite else trained.step,
    )
    return shared


def _weights(source: Path, loaded: Loaded, *, is_lost: bool) -> Trained:
    """What the source has trained; of one that diverged its initial weights, to plan with."""
    trial = from_json(read_json(source / "config.json"))
    if is_lost:
        return Trained(trial, loaded.task, 0, *loaded.init(init_key(trial.seed)))
    return restore_trained(source, trial, loaded.task)


def quantized_record(
    how: Quantized, fn: QuantizedModel, found: Audit, *, trained_under: str
) -> dict[str, Any]:
    """`policy.json` of a quantized trial: what its weights are and meet, and what is in force.

    Nothing is said of roles that only training has. Not in force is what the model pins, and what
    the compiled program multiplies in other operands than the mode says.

    Args:
        how: What the trial does.
        fn: The model in few bits.
        found: Its audit, compiled.
        trained_under: The policy of its source.
    """
    base, *rules = fn.rules
    own = {"p": (str(read_policy(trained_under).base.param), "as trained")}
    own |= {key: (fmt, base.mode.name) for key, fmt in _formats(base, fn)}
    forward = [role for role in found.policy.roles() if role.key in _FORWARD]
    return {
        "policy": how.mode,
        "roles": [
            {"key": role.key, "role": role.name, "format": fmt, "reason": reason}
            for role in forward
            for fmt, reason in [own.get(role.key, (role.format, "not quantized"))]
        ],
        "rules": [
            {"pattern": rule.pattern, "key": key, "role": KEYS[key], "format": fmt}
            for rule in rules
            for key, fmt in _formats(rule, fn)
        ],
        "in_force": max(0.0, found.in_force - found.otherwise),
        "pinned": found.pinned,
        "matrix_flops": found.flops,
        "emulated": False,
        "notes": [
            *found.notes,
            *(f"{path} stays in float: {reason}" for path, reason in fn.unfit.items()),
            *(str(finding) for finding in found.findings if finding.kind in _NOTED),
        ],
        "modes": dict(fn.modes),
        "kept": dict(fn.kept),
    }


def _formats(rule: ModeRule, fn: QuantizedModel) -> tuple[tuple[str, str], ...]:
    """What a rule's mode keeps weights in, and brings their inputs to."""
    paths = (path for path, mode in fn.modes.items() if mode == rule.mode.name)
    inputs = {each.pattern: str(dict(each.formats)["c"]) for each in fn.policy.rules}
    return ("k", str(rule.mode.weight or "f32")), ("c", inputs.get(next(paths, ""), "f32"))


def _finish(
    folder: Path,
    loaded: Loaded,
    *,
    journal: Journal,
    param_bytes: int,
    diverged_at: int | None,
) -> None:
    summary = summarize(
        read_rows(journal.metrics),
        metric=loaded.task.metric[0],
        clock=_NOT_TIMED,
        sizes={"param_bytes": param_bytes, "opt_bytes": None},
        steps=0,
        diverged_at=diverged_at,
    )
    write_json(folder / "summary.json", summary)
    state: State = "finished" if diverged_at is None else "diverged"
    journal.say(state)
    journal.status(state, 0)
