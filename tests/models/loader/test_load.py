"""What was written comes back bit for bit, runs as it ran, and is checked before it is read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis import load_quantized, quantize_model, save_quantized
from precis.models import MLP
from precis.models.loader import open_source
from precis.models.loader.safetensors_header import make_header, read_header
from precis.quant import Kernel, quantize_array


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for own, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (own.dtype, own.shape) == (other.dtype, other.shape)
        assert np.asarray(own).tobytes() == np.asarray(other).tobytes()


@pytest.fixture(scope="module")
def model():
    x = jax.random.normal(jax.random.key(0), (8, 16))
    mlp = MLP(hidden=(16,), classes=4)
    return mlp, jax.jit(mlp.init)(jax.random.key(1), x)["params"], x


@pytest.mark.parametrize("mode", ["w8a8_static", "w8a8_outliers", "w8a8; Dense_1/**: nf4@block8"])
@pytest.mark.parametrize("name", ["a.safetensors", "a"])
def test_a_model_from_disk_gives_the_same_bits(model, tmp_path, mode, name):
    mlp, params, x = model
    paths = ("Dense_0/kernel", "Dense_1/kernel")
    given = {
        "input_amax": dict.fromkeys(paths, 3.0),
        "smoothing": {"Dense_0/kernel": np.linspace(0.5, 2, 16, dtype=np.float32)[:, None]},
    }
    fn, qparams = quantize_model(mlp, params, mode, **given)
    save_quantized(qparams, tmp_path / name)
    found = load_quantized(tmp_path / name, like=qparams)
    same(found, qparams)
    assert isinstance(found["Dense_0"]["kernel"], Kernel)
    same(load_quantized(tmp_path / name), qparams)  # dicts in dicts, as linen's are
    same(load_quantized(tmp_path / name, like=params), qparams)
    if mode == "w8a8_static":
        run = jax.jit(fn)
        assert np.asarray(run(found, x)).tobytes() == np.asarray(run(qparams, x)).tobytes()


TREE = {
    "layers": [{"w": quantize_array(jnp.ones((8, 6)), "int3@channel")}],
    "zero": quantize_array(jnp.ones((64, 4)), "int4", calibrate="minmax"),
    "nv": quantize_array(jnp.ones((64, 32)), "nvfp4", axis=-1),
    "half": jnp.arange(4, dtype=jnp.bfloat16),
    "odd": jnp.arange(4, dtype=jnp.float8_e4m3),
    "scale": jnp.float8_e8m0fnu(2.0) * jnp.ones(3, jnp.float8_e8m0fnu),
    "few": jnp.arange(4).astype(jnp.int4),
    "count": np.int64(2**40),
    "flag": jnp.array(True),
    "none": jnp.zeros((0, 2)),
}


@pytest.mark.world
@pytest.mark.parametrize("name", ["a.safetensors", "a"])
def test_all_kinds_of_leaves(tmp_path, name):
    save_quantized(TREE, tmp_path / name)
    same(load_quantized(tmp_path / name, like=TREE), TREE)
    assert list(load_quantized(tmp_path / name)["layers"]) == ["0"]
    other = {**TREE, "half": jnp.zeros(5)}
    with pytest.raises(ValueError, match=r"half is \[4\], wanted \[5\]"):
        load_quantized(tmp_path / name, like=other)
    other = {"extra" if key == "half" else key: leaf for key, leaf in TREE.items()}
    with pytest.raises(ValueError, match=r"differ at extra \(wanted\), half \(saved\)"):
        load_quantized(tmp_path / name, like=other)


def test_a_dot_in_a_name_stays_one(tmp_path):
    save_quantized({"a.b": jnp.ones(3)}, tmp_path / "x.safetensors")
    assert list(load_quantized(tmp_path / "x.safetensors")) == ["a.b"]


def rewritten(source, dst, *, drop=(), shapes=None, edit=None):
    """A copy of a file without some arrays, with others of no entries, or another manifest."""
    old = read_header(source)
    leaves = {
        name: jax.ShapeDtypeStruct((shapes or {}).get(name, at.shape), at.dtype)
        for name, at in old.entries.items()
        if name not in drop
    }
    manifest = json.loads(old.metadata["precis.json"])
    if edit is not None:
        edit(manifest)
    head, entries = make_header(leaves, {"precis.json": json.dumps(manifest)})
    size = sum(int(np.prod(at.shape)) * at.dtype.itemsize for at in entries.values())
    dst.write_bytes(head + bytes(size))
    return dst


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ["zero/values"]}, "zero: values is missing"),
        ({"drop": ["half"], "edit": lambda m: m["quantized"].pop("zero")}, None),
        ({"shapes": {"zero/scale": (2, 4)}}, r"zero/scale is \[2, 4\], wanted \[1, 4\]"),
        ({"shapes": {"zero/values": (64, 3)}}, r"wanted 4 codes of 4 bits along axis -1"),
        ({"shapes": {"nv/tensor_scale": (3, 1)}}, "tensor_scale is .* broadcasts"),
        ({"edit": lambda m: m.update(version=9)}, "version 1 is wanted, got version 9"),
        ({"edit": lambda m: m.pop("quantized")}, "cannot be read: KeyError"),
        ({"edit": lambda m: m["quantized"]["zero"].update(axes=[-7])}, r"axes \[-7\]"),
        ({"edit": lambda m: m["quantized"]["zero"].update(format="int5")}, "int5|missing"),
        ({"edit": lambda m: m["quantized"].update(gone=m["quantized"]["zero"])}, "gone: values"),
        ({"edit": lambda m: m["dtypes"].update(odd="float8_e9m9")}, "float8_e9m9"),
    ],
)
def test_what_does_not_belong_together_is_refused_unread(tmp_path, monkeypatch, change, message):
    save_quantized(TREE, tmp_path / "x.safetensors")
    path = rewritten(tmp_path / "x.safetensors", tmp_path / "y.safetensors", **change)
    if message is None:
        assert "zero" in load_quantized(path)  # its arrays are plain ones now
        return
    with pytest.raises(ValueError, match=message):
        load_quantized(path)


def test_a_checkpoint_in_float_is_none_in_few_bits(safetensors_file, orbax_folder):
    for path in (safetensors_file, orbax_folder):
        with pytest.raises(ValueError, match="has no manifest of quantized arrays"):
            load_quantized(path)
    assert open_source(safetensors_file).manifest is None
