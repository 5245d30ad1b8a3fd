import signal
import subprocess
import sys

import pytest

from precis.sweep.store.lock import is_held, one_writer

HOLDER = """
import sys, time
from pathlib import Path
from precis.sweep.store.lock import one_writer
with one_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_held(tmp_path)
        busy = pytest.raises(BlockingIOError, match=f"written by process {holder.pid}")
        with busy, one_writer(tmp_path, patience_s=0.0):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not is_held(tmp_path)
    with one_writer(tmp_path, patience_s=0.0):
        assert is_held(tmp_path)


def test_a_folder_that_nobody_ever_held(tmp_path):
    assert not is_held(tmp_path / "none")
