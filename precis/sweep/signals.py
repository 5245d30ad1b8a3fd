"""SIGTERM and Ctrl-C as a request to stop at the next step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# sysexits' EX_TEMPFAIL: come again.
INTERRUPTED = 75


@contextmanager
def stop_requests(*, insist: bool) -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets, for as long as the block lasts.

    Args:
        insist: Whether a second signal raises KeyboardInterrupt. A worker gets Ctrl-C from the
            terminal and SIGTERM from its parent, and both mean the same.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        if insist and asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
