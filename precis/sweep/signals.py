"""SIGTERM and Ctrl-C as a request to stop at the next step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# sysexits' EX_TEMPFAIL: come again.
INTERRUPTED = 75
_AGAIN_S = 1.0


@contextmanager
def stop_requests(*, insist: bool) -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets, for as long as the block lasts.

    Args:
        insist: Whether a second Ctrl-C raises KeyboardInterrupt. A worker gets Ctrl-C from the
            terminal and SIGTERM from its parent, and both mean the same.
    """
    asked = threading.Event()
    first_s = math.inf

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        del frame
        now_s = time.monotonic()
        # One request may arrive twice: `timeout`, uv and schedulers signal a process and then
        # its group. Only a person presses again, and not at once.
        if insist and number == signal.SIGINT and now_s - first_s > _AGAIN_S:
            raise KeyboardInterrupt
        first_s = min(first_s, now_s)
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
