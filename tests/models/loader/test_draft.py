"""An interrupted run leaves nothing behind, a killed one nothing under the name."""

import subprocess
import sys

import jax.numpy as jnp
import pytest

from precis import load_quantized, quantize_checkpoint, save_quantized
from precis.models.loader.draft import appearing
from precis.quant import quantize_array

TREE = {"w": quantize_array(jnp.ones((8, 6)), "int8")}


@pytest.mark.parametrize("name", ["a.safetensors", "a"])
def test_what_is_there_is_replaced_only_if_that_is_said(tmp_path, name):
    save_quantized({"old": jnp.ones(3)}, tmp_path / name)
    with pytest.raises(FileExistsError, match="overwrite=True replaces it"):
        save_quantized(TREE, tmp_path / name)
    assert list(load_quantized(tmp_path / name)) == ["old"]
    save_quantized(TREE, tmp_path / name, overwrite=True)
    assert list(load_quantized(tmp_path / name)) == ["w"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_takes_the_place_of_a_file(tmp_path):
    (tmp_path / "a").write_text("a file")
    save_quantized(TREE, tmp_path / "a", overwrite=True)
    assert list(load_quantized(tmp_path / "a")) == ["w"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["a.safetensors", "a"])
def test_a_run_that_fails_leaves_what_was_there(tmp_path, name, safetensors_file):
    save_quantized({"old": jnp.ones(3)}, tmp_path / name)
    cut = tmp_path / "cut.safetensors"
    data = safetensors_file.read_bytes()
    cut.write_bytes(data)

    def shorten(*_):  # between header and arrays, as a disk that fails
        cut.write_bytes(data[: len(data) // 2])
        return "int8"

    kind = "safetensors" if "." in name else "orbax"
    with pytest.raises(ValueError, match="changed while it was read"):
        quantize_checkpoint(cut, tmp_path / name, LateRules(shorten), kind=kind, overwrite=True)
    assert list(load_quantized(tmp_path / name)) == ["old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "cut.safetensors"])


class LateRules(list):
    """Rules that do something when they are asked for, after the headers were read."""

    def __init__(self, act):
        super().__init__([("**", "int8")])
        self.act = act

    def __iter__(self):
        self.act()
        return super().__iter__()


KILLED = """
import os, signal, sys
from pathlib import Path
from precis.models.loader.draft import appearing

with appearing(Path(sys.argv[1]), overwrite=True) as draft:
    draft.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_the_name_as_it_was(tmp_path):
    path = tmp_path / "x.safetensors"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert not path.exists()
    with appearing(path, overwrite=False) as draft:
        draft.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"


def test_suffix_and_format(tmp_path):
    with pytest.raises(ValueError, match="orbax writes a folder"):
        save_quantized(TREE, tmp_path / "a.safetensors", kind="orbax")
    with pytest.raises(ValueError, match="'zarr' is no format"):
        save_quantized(TREE, tmp_path / "a", kind="zarr")
    save_quantized(TREE, tmp_path / "b", kind="safetensors")
    assert (tmp_path / "b" / "model.safetensors").is_file()
    assert list(load_quantized(tmp_path / "b")) == ["w"]
