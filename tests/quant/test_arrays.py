"""To plain arrays and back, through orbax and through safetensors' layout, bit for bit."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from precis.quant import from_arrays, quantize, quantize_array, to_arrays
from precis.sweep.store import checkpoints

FORMATS = ["int8", "e4m3fn", "mxfp4", "nvfp4"]


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    kernels = {
        fmt: {"kernel": jnp.asarray(rng.standard_normal((64, 7)), jnp.float32)} for fmt in FORMATS
    }
    rules = [(f"{fmt}/*", fmt) for fmt in FORMATS]
    return {
        "layers": [quantize(kernels, rules)],
        "zero": quantize_array(kernels["int8"]["kernel"], "int4", calibrate="minmax"),
        "half": jnp.arange(5, dtype=jnp.bfloat16),
        "small": jnp.arange(5, dtype=jnp.float8_e5m2),
        "bias": jnp.arange(3.0),
        "n": jnp.int32(4),
    }


def raw(tree):
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert raw(a) == raw(b)


@pytest.mark.world
def test_there_and_back(tree):
    arrays, manifest = to_arrays(tree)
    assert all(x.dtype.isbuiltin == 1 for x in arrays.values())
    manifest = json.loads(json.dumps(manifest))
    same(from_arrays(arrays, manifest, like=tree), tree)
    floats = jax.tree.map(lambda q: q.shape, tree, is_leaf=lambda x: hasattr(x, "scales"))
    by_path = from_arrays(arrays, manifest)
    assert by_path["layers/0/int8/kernel"].shape == floats["layers"][0]["int8"]["kernel"]
    assert arrays["layers/0/mxfp4/kernel/values"].nbytes == 64 * 4
    assert manifest["quantized"]["zero"] == {
        "format": "int4@block64",
        "axes": [-2],
        "packed": [-1, 7],
        "dtype": "float32",
    }


def test_through_orbax_as_a_checkpoint(tree, tmp_path):
    with checkpoints.opened(tmp_path) as manager:
        checkpoints.save(manager, 0, tree)
        restored = checkpoints.restore(manager, jax.tree.map(jnp.zeros_like, tree))
        same(restored.state, tree)
        other = tree | {"zero": quantize_array(jnp.ones((64, 7)), "int4", calibrate="minmax").T.T}
        checkpoints.restore(manager, other)
        wrong = tree | {"zero": quantize_array(jnp.ones((64, 7)), "uint4", calibrate="minmax")}
        with pytest.raises(ValueError, match=r"zero was saved as .*'int4@block64'"):
            checkpoints.restore(manager, wrong)


def test_through_orbax_as_plain_arrays(tree, tmp_path):
    arrays, manifest = to_arrays(tree)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "arrays", arrays)
        checkpointer.wait_until_finished()
        found = checkpointer.restore(tmp_path / "arrays")
    same(from_arrays(found, manifest, like=tree), tree)


def test_through_the_layout_of_safetensors(tree):
    # Eight bytes of length, a JSON header with text as metadata, then all arrays in a row.
    names = {"int8": "I8", "uint8": "U8", "uint16": "U16", "float32": "F32", "int32": "I32"}
    arrays, manifest = to_arrays(tree)
    header, body = {"__metadata__": {"precis": json.dumps(manifest)}}, b""
    for path, x in arrays.items():
        end = len(body) + x.nbytes
        kind = names[str(x.dtype)]
        header[path] = {"dtype": kind, "shape": x.shape, "data_offsets": [len(body), end]}
        body += x.tobytes()
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + body

    start = 8 + struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:start])
    meta = json.loads(head.pop("__metadata__")["precis"])
    kinds = {kind: name for name, kind in names.items()}
    found = {
        path: np.frombuffer(
            data[start + part["data_offsets"][0] : start + part["data_offsets"][1]],
            kinds[part["dtype"]],
        ).reshape(part["shape"])
        for path, part in head.items()
    }
    same(from_arrays(found, meta, like=tree), tree)


def test_what_does_not_belong_together_is_refused(tree):
    arrays, manifest = to_arrays(tree)
    with pytest.raises(ValueError, match="version 1 is wanted"):
        from_arrays(arrays, manifest | {"version": 2})
    with pytest.raises(ValueError, match="zero: values is missing"):
        from_arrays({k: x for k, x in arrays.items() if k != "zero/values"}, manifest)
    with pytest.raises(ValueError, match=r"zero/scale is \[7, 1\], wanted \[1, 7\]"):
        from_arrays(arrays | {"zero/scale": arrays["zero/scale"].T}, manifest)
    with pytest.raises(ValueError, match=r"zero/values is int32\[64, 4\], uint8 with 2 axes"):
        from_arrays(arrays | {"zero/values": np.int32(arrays["zero/values"])}, manifest)
    with pytest.raises(ValueError, match="arrays and tree differ at extra"):
        from_arrays(arrays | {"extra": np.ones(3)}, manifest, like=tree)
