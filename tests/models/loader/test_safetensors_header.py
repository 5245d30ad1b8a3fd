"""Headers that lie are found out before anything is read."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from precis.models.loader import open_source
from precis.models.loader.safetensors_header import make_header, read_header


def written(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def entry(start, stop, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_the_library_says_the_same(safetensors_file, torch_like):
    header = read_header(safetensors_file)
    assert header.metadata == {"format": "pt"}
    with safe_open(safetensors_file, framework="np") as file:
        assert set(file.keys()) == set(header.entries)
    for name, found in header.entries.items():
        assert (found.shape, found.dtype) == (torch_like[name].shape, torch_like[name].dtype)


def test_what_is_made_is_aligned_and_read_back(tmp_path):
    leaves = {
        "a": jax.ShapeDtypeStruct((3,), np.int8),
        "b": jax.ShapeDtypeStruct((), np.float64),
        "ä.c": jax.ShapeDtypeStruct((5, 2), jnp.bfloat16),
        "empty": jax.ShapeDtypeStruct((0, 4), np.float32),
    }
    head, entries = make_header(leaves, {"format": "pt"})
    (tmp_path / "x").write_bytes(head + bytes(8 + 20 + 3))
    found = read_header(tmp_path / "x")
    assert found.entries == entries
    assert all(at.start % at.dtype.itemsize == 0 for at in entries.values())
    with safe_open(tmp_path / "x", framework="np") as file:
        assert set(file.keys()) == set(leaves)
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ({"a": entry(0, 8)}, 7, r"has .* bytes, and .* by its header: it is cut off"),
        ({"a": entry(0, 8)}, 9, "what follows is unknown"),
        ({"a": entry(0, 4)}, 4, r"a is F32\[2\], 8 bytes, and is given 4"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "b begins at byte"),
        ({"a": entry(4, 12)}, 12, "a begins at byte"),
        ({"a": entry(0, 8, dtype="F4")}, 8, "a is F4, which is not one of"),
        ({"a": entry(0, 8, shape=(-2,))}, 8, r"shape \[-2\]"),
        ({"a": entry(0, 8, shape=(2**62, 2**62))}, 8, "and is given 8"),
        ({"a": {"dtype": "F32"}}, 0, "no header of safetensors: 'shape'"),
        (b'{"a": 1, "a": 2}', 0, "'a' is there twice"),
        (b"[1]", 0, "no header of safetensors"),
        (b"\xff\xfe", 0, "no header of safetensors"),
    ],
)
def test_a_wrong_header(tmp_path, header, body, message):
    path = written(tmp_path / "x.safetensors", header, bytes(body))
    with pytest.raises(ValueError, match=message):
        open_source(path)


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 2**63) + b"{}"])
def test_no_header_at_all(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="no safetensors file, or cut off"):
        open_source(tmp_path / "x.safetensors")


def test_a_file_that_is_cut_off_at_any_byte_is_refused(tmp_path):
    save_file({"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.int8)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    assert set(read_header(tmp_path / "whole").entries) == {"a", "b"}
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut off|no header"):
            read_header(tmp_path / "cut")
