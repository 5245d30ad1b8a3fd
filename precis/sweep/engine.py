"""Where trials run: in worker processes that take groups off one queue, or in this process."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from precis.sweep.journal import Journal
from precis.sweep.signals import INTERRUPTED
from precis.sweep.status import is_done, read_status
from precis.sweep.store.strict import write_text

# How often the parent looks whether it was asked to stop.
_TICK_S = 0.1
# How much of a dead worker's last words goes into the record.
_LAST_WORDS = 4000

Groups: TypeAlias = "queue.SimpleQueue[Sequence[str]]"
Worker: TypeAlias = "subprocess.Popen[str]"


class Order(NamedTuple):
    """What an engine is asked to do.

    Attributes:
        folder: The sweep's folder.
        waves: Groups of trials that share a program, as folders, in the order in which they should
            start; those of a wave start when all of the one before it are over.
        fingerprint: Of this code.
        lock: A file descriptor that holds the folder; who inherits it holds it too.
    """

    folder: Path
    waves: Sequence[Sequence[Sequence[str]]]
    fingerprint: str
    lock: int


def run_here(order: Order, *, stop: Callable[[], bool]) -> None:
    """Runs all groups in this process, one after the other."""
    # Imported here: it brings jax, which the parent of worker processes never needs.
    from precis.sweep.environment import environment
    from precis.sweep.group import make_bench, run_group
    from precis.sweep.store.strict import write_json

    write_json(order.folder / "env.json", environment(workers=0))
    bench = make_bench(order.folder, fingerprint=order.fingerprint, stop=stop)
    for wave in order.waves:
        for dirs in wave:
            run_group(bench, dirs)


def run_in_workers(order: Order, *, workers: int, stop: Callable[[], bool]) -> None:
    """Runs the waves, each in up to `workers` processes, until all is done or a stop is asked for.

    A stop is handed on as SIGTERM, and waited for. A worker that dies takes one trial with it,
    which is recorded as failed; a new worker goes on with the rest.
    """
    for wave in order.waves:
        _run_wave(order, wave, workers=workers, stop=stop)


def _run_wave(
    order: Order, wave: Sequence[Sequence[str]], *, workers: int, stop: Callable[[], bool]
) -> None:
    groups: Groups = queue.SimpleQueue()
    for dirs in wave:
        groups.put(dirs)
    count = min(workers, len(wave))
    live: dict[int, Worker] = {}
    threads = [
        threading.Thread(target=_serve, args=(order, slot, count, groups, live, stop), daemon=True)
        for slot in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        told: set[int] = set()
        while any(thread.is_alive() for thread in threads):
            time.sleep(_TICK_S)
            for worker in live.copy().values() if stop() else ():
                if worker.pid not in told:
                    worker.terminate()
                    told.add(worker.pid)
    # A second Ctrl-C: whoever asks twice does not want to wait.
    except KeyboardInterrupt:
        for worker in live.copy().values():
            worker.kill()
        raise


def _serve(
    order: Order,
    slot: int,
    count: int,
    groups: Groups,
    live: dict[int, Worker],
    stop: Callable[[], bool],
) -> None:
    """Keeps one worker busy, and replaces it when it dies."""
    worker: Worker | None = None
    while not stop() and (dirs := _next(groups)):
        while dirs and not stop():
            worker = live[slot] = worker or _start(order, slot, count)
            if _has_run(worker, dirs):
                break
            code = worker.wait()
            worker = None
            if not stop() and code != INTERRUPTED:
                dirs = _bury(order, dirs, code=code, words=_worker_log(order, slot))
    if worker is not None and worker.stdin is not None:
        worker.stdin.close()
        worker.wait()


def _next(groups: Groups) -> Sequence[str] | None:
    try:
        return groups.get_nowait()
    except queue.Empty:
        return None


def _start(order: Order, slot: int, count: int) -> Worker:
    command = [sys.executable, "-m", "precis.sweep.worker"]
    with _worker_log(order, slot).open("wb") as log:
        return subprocess.Popen(
            [*command, str(order.folder), str(count), order.fingerprint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=(order.lock,),
            text=True,
            bufsize=1,
        )


def _has_run(worker: Worker, dirs: Sequence[str]) -> bool:
    """Whether the worker ran the group to its end; if not, it is gone."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(list(dirs)) + "\n")
    except BrokenPipeError:
        return False
    return worker.stdout.readline() == "done\n"


def _bury(order: Order, dirs: Sequence[str], *, code: int, words: Path) -> Sequence[str]:
    """Records the trial at which a worker died as failed; gives those that come after it."""
    left = [name for name in dirs if not is_done(order.folder / name)]
    running = [name for name in left if read_status(order.folder / name).state == "running"]
    if not left:
        return []
    victim = (running or left)[0]
    folder = order.folder / victim
    before = read_status(folder)
    cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    error = f"the worker process died: {cause}"
    logs = [path for path in (words, folder / "log.txt") if path.exists()]
    said = [path.read_text(errors="replace") for path in logs]
    write_text(folder / "traceback.txt", f"{error}\n\n{''.join(said)[-_LAST_WORDS:]}")
    Journal(folder, before.steps, order.fingerprint).status("failed", before.step, error=error)
    return dirs[list(dirs).index(victim) + 1 :]


def _worker_log(order: Order, slot: int) -> Path:
    return order.folder / f".worker-{slot}.log"
