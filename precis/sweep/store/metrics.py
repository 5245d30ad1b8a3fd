"""`metrics.jsonl`: one row a logged step, without times, so that equal trials write equal bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from precis.sweep.store.strict import canonical, write_text


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows in order; a last one that was cut off is left out, and no file means no rows."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(canonical(row) + "\n" for row in rows)


def settle(path: Path) -> None:
    """Sees the rows onto the disk: a checkpoint that follows relies on them, power cut or not."""
    with path.open("a", encoding="utf-8") as file:
        os.fsync(file.fileno())


def cut_rows(path: Path, *, after: int) -> list[dict[str, Any]]:
    """Drops the rows of steps past `after`, and what was cut off; gives those that stay."""
    rows = [row for row in read_rows(path) if row["step"] <= after]
    write_text(path, "".join(canonical(row) + "\n" for row in rows))
    return rows
