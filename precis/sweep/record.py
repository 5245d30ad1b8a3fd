"""`plan.json`: the plan of a sweep as a report reads it. Needs no jax."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from precis.policy import read_policy
from precis.sweep.plan import Plan
from precis.sweep.spec import ArmSpec, TaskSpec


def plan_record(plan: Plan, *, root: Path, old: Mapping[str, Any]) -> dict[str, Any]:
    """`plan.json`: the plan as data.

    Args:
        plan: The plan.
        root: As for `make_plan`; kept so that worker processes find the same tasks.
        old: The record of an earlier run in the same folder, for the date and for what is known
            of tasks only once they were loaded.
    """
    known = old.get("tasks", {})
    return {
        "name": plan.sweep.name,
        "created": old.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
        "root": str(root.absolute()),
        "baseline": plan.baseline,
        "noise_floor": plan.noise_floor,
        "checkpoint_every": plan.sweep.checkpoint_every,
        "tasks": {
            label: _task_record(task, known.get(label, {})) for label, task in plan.tasks.items()
        },
        "arms": [_arm_record(arm) for arm in plan.arms.values()],
        "seeds": list(plan.sweep.seeds),
        "trials": [
            {"dir": p.dir, "task": p.task, "arm": p.arm, "seed": p.trial.seed, "digest": p.digest}
            for p in plan.trials
        ],
    }


def _task_record(task: TaskSpec, known: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": task.name,
        "model": task.model,
        "metric": known.get("metric"),
        "direction": known.get("direction"),
        "unit": known.get("unit"),
        "tolerance": task.tolerance,
        "tolerance_is_default": task.tolerance is None,
        "steps": task.steps,
        "facts": known.get("facts", {}),
    }


def _arm_record(arm: ArmSpec) -> dict[str, Any]:
    policy = read_policy(arm.policy)
    if arm.quantize:
        return _quantized_record(arm, str(policy))
    changes: dict[str, Any] = dict(arm.recipe)
    changes |= {} if arm.steps is None else {"steps": arm.steps}
    changes |= {"perturb_ulp": arm.perturb_ulp} if arm.perturb_ulp else {}
    return {
        "name": arm.name,
        "policy": str(policy),
        "given": arm.given,
        "emulated": policy.is_emulated,
        "recipe": changes,
        "reason": arm.reason,
    }


def _quantized_record(arm: ArmSpec, policy: str) -> dict[str, Any]:
    """Of a quantized arm; its policy is the one that its weights were trained under."""
    changes: dict[str, Any] = {} if arm.calibrate == "absmax" else {"calibrate": arm.calibrate}
    changes |= {} if arm.smooth is None else {"smooth": arm.smooth}
    return {
        "name": arm.name,
        "policy": policy,
        "given": arm.given,
        "emulated": False,
        "recipe": changes,
        "reason": arm.reason,
        "quantize": arm.quantize,
        "of": arm.of,
    }
