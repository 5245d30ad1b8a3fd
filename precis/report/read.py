"""A store on disk, read into frozen records; whatever is not there yet is None or empty."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from precis.report.records import Arm, EvalRow, Role, Store, Task, TrainRow, Trial

_NON_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def load(folder: str | Path) -> Store:
    """The records of the sweep that lives in `folder`.

    A trial that has not started, was interrupted or failed is read as far as it got: a file that
    is missing counts as empty, and a last line cut off in the middle is left out.

    Args:
        folder: A sweep's folder, `runs/<name>`, as the README draws it.

    Returns:
        The plan, the environment and one record a planned trial, in the order of the plan.

    Raises:
        ValueError: There is no readable `plan.json`, so this is not the folder of a sweep.
    """
    folder = Path(folder)
    plan = _object(folder / "plan.json")
    if not plan:
        inside = sorted(path.parent.name for path in folder.glob("*/plan.json"))
        hint = f"; it holds the sweeps {', '.join(inside)}" if inside else ""
        raise ValueError(f"a sweep's folder with a plan.json is wanted, got {folder}{hint}")
    return Store(
        folder=folder,
        name=plan["name"],
        created=plan.get("created", ""),
        baseline=plan["baseline"],
        noise_floor=plan.get("noise_floor"),
        tasks=tuple(_task(label, task) for label, task in plan["tasks"].items()),
        arms=tuple(_arm(arm) for arm in plan["arms"]),
        seeds=tuple(plan["seeds"]),
        trials=tuple(_trial(folder, entry) for entry in plan["trials"]),
        environment=_object(folder / "env.json"),
    )


def _task(label: str, task: Mapping[str, Any]) -> Task:
    return Task(
        label=label,
        name=task["name"],
        model=task.get("model"),
        metric=task["metric"],
        direction=task["direction"],
        unit=task.get("unit") or "",
        tolerance=task.get("tolerance"),
        steps=task["steps"],
        facts=task.get("facts") or {},
    )


def _arm(arm: Mapping[str, Any]) -> Arm:
    return Arm(
        name=arm["name"],
        policy=arm["policy"],
        given=arm.get("given") or arm["policy"],
        emulated=bool(arm.get("emulated")),
        recipe=arm.get("recipe") or {},
        reason=arm.get("reason") or "",
        quantize=arm.get("quantize") or "",
        of=arm.get("of") or "",
    )


def _trial(folder: Path, entry: Mapping[str, Any]) -> Trial:
    here = folder / entry["dir"]
    status, policy = _object(here / "status.json"), _object(here / "policy.json")
    train, evals = _metrics(here / "metrics.jsonl")
    return Trial(
        dir=entry["dir"],
        task=entry["task"],
        arm=entry["arm"],
        seed=entry["seed"],
        state=status.get("state", "pending"),
        step=status.get("step") or 0,
        error=status.get("error"),
        fingerprint=status.get("fingerprint"),
        roles=tuple(_told(policy.get("roles", ()))),
        rules=tuple(
            Role(f"{rule['pattern']}: {rule['key']}", rule["role"], rule["format"], "rule")
            for rule in policy.get("rules", ())
        ),
        in_force=policy.get("in_force"),
        pinned=policy.get("pinned"),
        notes=tuple(policy.get("notes") or ()),
        train=train,
        evals=evals,
        summary=_numbers(_object(here / "summary.json")),
        traceback=_text(here / "traceback.txt"),
    )


def _told(roles: Iterable[Any]) -> Iterator[Role]:
    """The roles that say something: what only follows g is not one more."""
    found = (Role(*map(role.get, Role._fields)) for role in roles)
    return (role for role in found if role.reason != "as g")


def _metrics(path: Path) -> tuple[tuple[TrainRow, ...], tuple[EvalRow, ...]]:
    """The rows by step; a step logged again after a resume counts once, as logged last."""
    train: dict[int, TrainRow] = {}
    evals: dict[int, EvalRow] = {}
    for row in _rows(path):
        step = row.pop("step")
        if found := row.pop("eval", None):
            evals[step] = EvalRow(step, found.get("own") or {}, found.get("f32") or {})
        if row:
            train[step] = TrainRow(step, row)
    return tuple(train[step] for step in sorted(train)), tuple(evals[s] for s in sorted(evals))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in _text(path).splitlines():
        try:
            row = _numbers(json.loads(line))
        except ValueError:
            return
        if isinstance(row, dict) and "step" in row:
            yield row


def _numbers(tree: Any) -> Any:
    """The same tree with the three words of strict JSON's missing numbers as floats."""
    match tree:
        case dict():
            return {key: _numbers(value) for key, value in tree.items()}
        case list():
            return [_numbers(value) for value in tree]
        case str():
            return _NON_FINITE.get(tree, tree)
        case _:
            return tree


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
