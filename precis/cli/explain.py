"""The command `explain`: what a task would run in which format, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from precis.cli.arguments import Output, arg
from precis.cli.console import open_console

if TYPE_CHECKING:
    from precis.train import Task


def explain(
    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK|FILE")],
    *,
    policy: Annotated[str | None, arg("POLICY")] = None,
    model: Annotated[str | None, arg("MODEL")] = None,
    compiled: bool = False,
    output: Output = "terminal",
) -> int:
    """Print what a task would run in which format, and why; nothing is trained.

    Args:
        what: A built-in task (digits, text), a .py file that defines task(), or a sweep's .toml
            file, of which every arm on every task is explained.
        policy: A policy, and rules by path if any; of a sweep, in place of its arms.
        model: Which of the task's models.
        compiled: Compile the gradient too, and say what each product really ran in.
        output: How it is printed.
    """
    from precis.report import audit_markdown, print_audit
    from precis.train import audit_task

    console = open_console()
    records = []
    for title, task, text in _chosen(what, policy, model):
        record = {"title": title, **audit_task(task, text, compiled=compiled).record()}
        match output:
            case "terminal":
                print_audit(record, console, title=title)
                console.print()
            case "markdown":
                print(f"## {title}\n\n{audit_markdown(record)}")
            case "json":
                records.append(record)
    if records:
        print(json.dumps(records if len(records) > 1 else records[0], indent=2, ensure_ascii=False))
    return 0


def _chosen(what: str, policy: str | None, model: str | None) -> Iterator[tuple[str, Task, str]]:
    """A title, a task and a policy's text for each audit."""
    from precis.train import load_task

    if not what.endswith(".toml"):
        if policy is None:
            raise ValueError(f"explain wants a policy: precis explain {what} --policy mixed_bf16")
        yield f"{what} {model}" if model else what, load_task(what, model), policy
        return
    if model is not None:
        raise ValueError(f"{what} names its models itself: leave --model out")
    for label, arm, task, own in _of_sweep(Path(what)):
        yield label if policy else f"{label}, {arm}", task, policy or own


def _of_sweep(file: Path) -> Iterator[tuple[str, str, Task, str]]:
    from precis.sweep import load_sweep, make_plan
    from precis.sweep.plan import task_path
    from precis.train import load_task

    plan = make_plan(load_sweep(file, ()), root=file.parent)
    seen: set[tuple[str, str]] = set()
    tasks: dict[str, Any] = {}
    for planned in plan.trials:
        if (planned.task, planned.arm) in seen:
            continue
        seen.add((planned.task, planned.arm))
        trial = planned.trial
        if planned.task not in tasks:
            path = task_path(trial.task, file.parent)
            tasks[planned.task] = load_task(path, trial.model, **trial.options)
        yield planned.task, planned.arm, tasks[planned.task], trial.policy
