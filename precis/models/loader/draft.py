"""A file or folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(dst: Path, *, overwrite: bool) -> Iterator[Path]:
    """Where to write what is to become `dst` when the block has ended without an error.

    It lies in a hidden folder beside `dst`, which goes in any case; only a killed process leaves
    it behind. What was at `dst` before is there until the new is complete.

    Raises:
        FileExistsError: There is something at `dst`, and `overwrite` is not said.
    """
    refuse_existing(dst, overwrite=overwrite)
    dst.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{dst.name}.", dir=dst.parent))
    try:
        draft = hidden / dst.name
        yield draft
        refuse_existing(dst, overwrite=overwrite)
        # A folder neither replaces nor is replaced, as a file is; what is there is moved aside.
        if dst.is_dir() or (draft.is_dir() and dst.exists()):
            os.rename(dst, hidden / "before")
        os.replace(draft, dst)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def refuse_existing(dst: Path, *, overwrite: bool) -> None:
    """Raises FileExistsError if there is something at `dst` that may not be overwritten."""
    if dst.exists() and not overwrite:
        raise FileExistsError(
            f"{dst} is there already: overwrite=True replaces it, --overwrite on a command line"
        )
