"""shard_map and collectives on eight devices, which only a process of its own has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "sharded.py"
MORE = ["data_parallel", "gathered_weights", "unchecked", "ruled", "inside"]


def run(*names):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *names],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == list(names)


@pytest.mark.world
def test_the_laws_hold_across_devices():
    run("tensor_parallel", "noise")


@pytest.mark.nightly
@pytest.mark.parametrize("name", MORE)
def test_the_laws_hold_however_devices_share_the_work(name):
    run(name)
