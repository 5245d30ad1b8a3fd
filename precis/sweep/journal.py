"""What a running trial writes down: its status, its rows, its log."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from precis.sweep.status import State, Status, write_status
from precis.sweep.store.metrics import append_rows, cut_rows, settle
from precis.sweep.store.strict import write_text


@dataclass(frozen=True, slots=True)
class Journal:
    """The files of one trial, for its writer.

    Attributes:
        folder: The trial's folder.
        steps: Steps to take.
        fingerprint: Of the code that runs it.
    """

    folder: Path
    steps: int
    fingerprint: str

    @property
    def metrics(self) -> Path:
        """Where the rows are."""
        return self.folder / "metrics.jsonl"

    def status(self, state: State, step: int, *, error: str | None = None) -> None:
        """Records how far the trial is."""
        status = Status(state, step, self.steps, error, fingerprint=self.fingerprint)
        write_status(self.folder, status)

    def resume(self, *, after: int) -> list[dict[str, Any]]:
        """The rows up to step `after`; those past it, and an old traceback, are dropped."""
        (self.folder / "traceback.txt").unlink(missing_ok=True)
        return cut_rows(self.metrics, after=after)

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows of metrics."""
        append_rows(self.metrics, rows)

    def settle(self) -> None:
        """Sees the rows onto the disk."""
        settle(self.metrics)

    def say(self, text: str) -> None:
        """Adds a line to the log, with the time."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{now} {text}\n")

    def failed(self, step: int, error: Exception) -> None:
        """Records what the trial raised."""
        write_text(self.folder / "traceback.txt", "".join(traceback.format_exception(error)))
        summary = f"{type(error).__name__}: {error}".splitlines()[0]
        self.say(f"failed: {summary}")
        self.status("failed", step, error=summary)


def drop_results(folder: Path) -> None:
    """Forgets all that the trial in `folder` has computed."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in ("status.json", "metrics.jsonl", "summary.json", "traceback.txt", "log.txt"):
        (folder / name).unlink(missing_ok=True)
