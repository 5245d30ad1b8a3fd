"""Where each trial of a sweep stands, read from its folder. Needs no jax."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from precis.sweep.store.metrics import read_rows
from precis.sweep.store.strict import read_json, write_json

State = Literal["pending", "running", "interrupted", "finished", "diverged", "failed"]

# The states of a trial that has a result.
DONE: tuple[State, ...] = ("finished", "diverged")


class Status(NamedTuple):
    """How far a trial is.

    Attributes:
        state: One of `State`; `running` also after a kill, until somebody resumes it.
        step: Steps taken and on record.
        steps: Steps to take.
        error: What it raised, if it failed.
        updated: When this was written, ISO 8601 in UTC.
        fingerprint: Of the code that ran it.
    """

    state: State = "pending"
    step: int = 0
    steps: int = 0
    error: str | None = None
    updated: str = ""
    fingerprint: str = ""


def read_status(folder: Path) -> Status:
    """The status of the trial in `folder`; pending if it has none."""
    found = read_json(folder / "status.json")
    if found.get("state") not in get_args(State):
        return Status()
    return Status(**{key: found[key] for key in Status._fields if key in found})


def write_status(folder: Path, status: Status) -> None:
    """Writes `status`, with the present time."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    write_json(folder / "status.json", status._replace(updated=now)._asdict())


def is_done(folder: Path) -> bool:
    """Whether the trial in `folder` has a result: it finished, or it diverged."""
    return read_status(folder).state in DONE and bool(read_json(folder / "summary.json"))


def read_plan(folder: Path) -> dict[str, Any]:
    """The `plan.json` of the sweep in `folder`.

    Raises:
        ValueError: There is none.
    """
    plan = read_json(folder / "plan.json")
    if not plan:
        near = ", ".join(sorted(str(p.parent) for p in folder.glob("*/plan.json")))
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"{folder}: the folder of a sweep is wanted, with a plan.json{hint}")
    return plan


def last_loss(folder: Path) -> float | str | None:
    """The newest training loss on record."""
    losses = [row["loss"] for row in read_rows(folder / "metrics.jsonl") if "loss" in row]
    return losses[-1] if losses else None


def statuses(folder: Path, plan: Mapping[str, Any]) -> dict[str, Status]:
    """The status of each planned trial, by folder name."""
    return {entry["dir"]: read_status(folder / entry["dir"]) for entry in plan["trials"]}


def newest_record(folder: Path) -> int:
    """When a file that a report reads was last written, in nanoseconds of the file system."""
    names = ("plan.json", "env.json", "*/status.json", "*/summary.json", "*/policy.json")
    files = [path for name in names for path in folder.glob(name)]
    return max((path.stat().st_mtime_ns for path in files), default=0)
