"""From a sweep to its trials, checked as far as that goes without computing. Needs no jax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from precis.formats import FloatFormat
from precis.policy import read_policy
from precis.sweep.config import merge_recipe
from precis.sweep.grid import expand
from precis.sweep.sources import with_sources
from precis.sweep.spec import ArmSpec, Sweep, TaskSpec
from precis.sweep.trial import Quantized, Trial, digest, folder_name
from precis.train.apex import apex_changes
from precis.train.recipe import check_master
from precis.train.task import task_source
from precis.types import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A trial and its place in the sweep.

    Attributes:
        trial: What it computes.
        dir: Its folder within the sweep's.
        task: Label of its task.
        arm: Name of its arm.
        digest: Of the trial and its task's source.
    """

    trial: Trial
    dir: str
    task: str
    arm: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A sweep written out.

    Attributes:
        sweep: As it was given.
        tasks: Its tasks by label.
        arms: Its arms, grids expanded, by name.
        baseline: Name of the arm that the others are compared with.
        noise_floor: Name of the baseline's perturbed twin, if there is one.
        trials: Task by task, arm by arm, seed by seed.
    """

    sweep: Sweep
    tasks: Mapping[str, TaskSpec]
    arms: Mapping[str, ArmSpec]
    baseline: str
    noise_floor: str | None
    trials: tuple[Planned, ...]


def make_plan(sweep: Sweep, *, root: Path) -> Plan:
    """Every trial of `sweep`, all of it checked that can be checked without computing.

    Args:
        sweep: The question.
        root: Where the paths of tasks are counted from: the sweep file's folder.

    Raises:
        ValueError: A bad policy, recipe, task or number, two things of one name, a baseline that
            is no arm, a quantized arm of none, or nothing to do.
    """
    _check_numbers(sweep)
    tasks = _by_name("task", [(_label(task), task) for task in sweep.task])
    grown = [(arm, expand(_written_out(arm), sweep.grid)) for arm in sweep.arm]
    arms = with_sources(
        _by_name("arm", [(arm.name, arm) for _, several in grown for arm in several])
    )
    # A baseline named as the file has it means the first arm that the grid makes of it.
    first = {arm.name: several[0].name for arm, several in grown}
    baseline = _named("baseline", sweep.baseline or sweep.arm[0].name, arms, first)
    trials = [
        _planned(sweep, label, task, arm=arm, seed=seed, root=root)
        for label, task in tasks.items()
        for arm in arms.values()
        for seed in sweep.seeds
    ]
    return Plan(
        sweep=sweep,
        tasks=tasks,
        arms=arms,
        baseline=baseline,
        noise_floor=_noise_floor(sweep, arms, first, baseline=baseline),
        trials=tuple(trials),
    )


def _written_out(arm: ArmSpec) -> ArmSpec:
    """The arm with a policy, and a recipe's changes, in place of Apex's level."""
    if arm.quantize or arm.of:
        return arm
    if bool(arm.policy) == bool(arm.apex):
        got = "both" if arm.policy else "neither"
        raise ValueError(f"arm {arm.name!r} has a policy or an apex level, got {got}")
    if not arm.apex:
        return arm
    try:
        policy, changes = apex_changes(arm.apex)
    except ValueError as error:
        raise ValueError(f"arm {arm.name!r}: {error}") from None
    return replace(arm, policy=policy, apex="", recipe=changes | dict(arm.recipe))


def _planned(
    sweep: Sweep, label: str, task: TaskSpec, *, arm: ArmSpec, seed: int, root: Path
) -> Planned:
    where = f"arm {arm.name!r} on task {label!r}"
    try:
        policy = read_policy(arm.policy)
    except (TypeError, ValueError) as error:
        raise ValueError(f"arm {arm.name!r}: {error}") from None
    floats = [fmt for fmt in policy.params if isinstance(fmt, FloatFormat)]
    no_dtype = [str(fmt) for fmt in floats if not fmt.is_native]
    if arm.perturb_ulp and no_dtype:
        raise ValueError(
            f"{where}: perturb_ulp counts in a dtype's ulps, and p={no_dtype[0]} has no dtype; "
            "choose p=f32, bf16 or f16"
        )
    recipe = merge_recipe(sweep.recipe, task.recipe, arm.recipe, where=where)
    try:
        check_master(policy, recipe.master)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    trained = Trial(
        task=task.name,
        model=task.model,
        options=task.options,
        policy=str(policy),
        recipe=recipe,
        steps=task.steps if arm.steps is None else arm.steps,
        seed=seed,
        perturb_ulp=arm.perturb_ulp,
        log_every=sweep.log_every,
        eval_every=sweep.eval_every,
    )
    source = task_source(task_path(task.name, root))
    trial = _quantized(trained, arm, digest(trained, source)) if arm.quantize else trained
    found = digest(trial, source)
    folder = folder_name(label, arm.name, seed=seed, digest=found)
    return Planned(trial=trial, dir=folder, task=label, arm=arm.name, digest=found)


def _quantized(trained: Trial, arm: ArmSpec, source: str) -> Trial:
    how = Quantized(mode=arm.quantize, calibrate=arm.calibrate, smooth=arm.smooth, source=source)
    return replace(trained, steps=0, quantized=how)


def task_path(name: str, root: Path) -> str:
    """The task's name, or where its Python file lies if it has one: a path counts from `root`."""
    return str(root / name) if name.endswith(".py") else name


def _label(task: TaskSpec) -> str:
    stem = Path(task.name).stem
    return task.label or (f"{stem}-{task.model}" if task.model else stem)


def _by_name(kind: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if not names:
        raise ValueError(f"a sweep has at least one {kind}, this one has none")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        hint = "; tell them apart by `label`" if kind == "task" else ""
        raise ValueError(f"more than one {kind} is called {twice[0]!r}{hint}")
    return dict(pairs)


def _named(what: str, name: str, arms: Mapping[str, ArmSpec], first: Mapping[str, str]) -> str:
    found = name if name in arms else first.get(name)
    if found is None:
        raise ValueError(f"{what} = {name!r}: no arm has that name{did_you_mean(name, arms)}")
    return found


def _noise_floor(
    sweep: Sweep, arms: Mapping[str, ArmSpec], first: Mapping[str, str], *, baseline: str
) -> str | None:
    if sweep.noise_floor:
        return _named("noise_floor", sweep.noise_floor, arms, first)
    twin = arms[baseline]
    for arm in arms.values():
        same = read_policy(arm.policy) == read_policy(twin.policy) and arm.recipe == twin.recipe
        same = same and arm.steps == twin.steps and _quantizes_as(arm) == _quantizes_as(twin)
        if same and arm.perturb_ulp and not twin.perturb_ulp:
            return arm.name
    return None


def _quantizes_as(arm: ArmSpec) -> tuple[Any, ...]:
    return arm.quantize, arm.calibrate, arm.smooth


def _check_numbers(sweep: Sweep) -> None:
    if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds) or min(sweep.seeds) < 0:
        raise ValueError(f"seeds: distinct numbers from 0 up are wanted, got {sweep.seeds}")
    wanted = {
        "log_every": (sweep.log_every, 1),
        "eval_every": (sweep.eval_every, 0),
        "checkpoint_every": (sweep.checkpoint_every, 0),
    }
    wanted |= {f"task {_label(task)!r}: steps": (task.steps, 1) for task in sweep.task}
    for arm in sweep.arm:
        wanted[f"arm {arm.name!r}: perturb_ulp"] = (arm.perturb_ulp, 0)
        wanted[f"arm {arm.name!r}: steps"] = (1 if arm.steps is None else arm.steps, 1)
    for key, (number, least) in wanted.items():
        if number < least:
            raise ValueError(f"{key}: at least {least} is wanted, got {number}")
    for task in sweep.task:
        if task.tolerance is not None and not task.tolerance >= 0:
            raise ValueError(f"task {_label(task)!r}: a tolerance is 0 or more")
