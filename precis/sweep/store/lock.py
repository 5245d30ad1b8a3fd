"""One writer a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# After its parent was killed a worker needs a moment to notice and go.
PATIENCE_S = 5.0


@contextmanager
def one_writer(folder: Path, *, patience_s: float = PATIENCE_S) -> Iterator[int]:
    """Holds `folder` for this process and those that inherit the file descriptor it yields.

    The kernel keeps the lock, so it goes when the last holder does, however that ends: no lock
    can be stale.

    Raises:
        BlockingIOError: Another process holds it, and still does after `patience_s`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait(handle, path, patience_s)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield handle
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether some process is writing to `folder` now."""
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _wait(handle: int, path: Path, patience_s: float) -> None:
    give_up = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() > give_up:
            holder = path.read_text().strip() or "unknown"
            raise BlockingIOError(
                f"{path.parent} is being written by process {holder}; "
                "wait for it, stop it, or choose another --out"
            )
        time.sleep(0.05)
