"""A worker process: reads groups of trials from its stdin, runs them, answers on its stdout.

`python -m precis.sweep.worker FOLDER WORKERS FINGERPRINT`; each line of stdin is a JSON list of
trial folders, each is answered by a line `done`. The end of stdin ends it. Exit code 75 if it was
stopped.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from precis.sweep.environment import environment
from precis.sweep.group import make_bench, run_group
from precis.sweep.signals import INTERRUPTED, stop_requests
from precis.sweep.store.strict import write_json


def main(arguments: list[str]) -> int:
    """Runs the worker; gives its exit code."""
    folder, workers, fingerprint = Path(arguments[0]), int(arguments[1]), arguments[2]
    answers = _keep_stdout_for_answers()
    faulthandler.enable()
    with stop_requests(insist=False) as asked:
        write_json(folder / "env.json", environment(workers=workers))
        bench = make_bench(folder, fingerprint=fingerprint, stop=asked.is_set, capture=_printing_to)
        for dirs in _orders(asked.is_set):
            run_group(bench, dirs)
            if asked.is_set():
                break
            answers.write("done\n")
            answers.flush()
        return INTERRUPTED if asked.is_set() else 0


def _keep_stdout_for_answers() -> TextIO:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _orders(stop: Callable[[], bool]) -> Iterator[list[str]]:
    """Groups as they come in, until stdin ends or a stop is asked for.

    Where stdin ends while a group runs, the parent was killed: then so is this process, at once,
    so that who comes next finds the folder free. What it has saved is whole at any moment.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            busy.set()
            lines.put(line)
        if busy.is_set():
            os._exit(INTERRUPTED)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while not stop():
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            continue
        if line is None:
            return
        yield json.loads(line)
        busy.clear()


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """What is printed, by C++ code too, goes to the end of a file."""
    with path.open("ab", buffering=0) as file:
        before = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in before:
                os.dup2(file.fileno(), number)
            yield
        finally:
            sys.stdout.flush()
            for number, old in before.items():
                os.dup2(old, number)
                os.close(old)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
