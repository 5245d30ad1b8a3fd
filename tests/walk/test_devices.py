"""shard_map and collectives on eight devices, which only a process of its own has."""

from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "sharded.py"
MORE = ["data_parallel", "gathered_weights", "unchecked", "ruled", "inside"]


@pytest.mark.world
def test_the_laws_hold_across_devices(on_eight_devices):
    on_eight_devices(PROGRAM, "tensor_parallel", "noise", "stored")


@pytest.mark.nightly
@pytest.mark.parametrize("name", MORE)
def test_the_laws_hold_however_devices_share_the_work(on_eight_devices, name):
    on_eight_devices(PROGRAM, name)
