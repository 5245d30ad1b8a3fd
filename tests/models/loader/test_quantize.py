"""`quantize_checkpoint`: each leaf what `quantize_array` makes of it, all else byte for byte."""

import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from precis import load_quantized, quantize, quantize_checkpoint, quantize_model
from precis.models.loader import open_source
from precis.quant import QTensor, quantize_array


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for own, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (own.dtype, own.shape) == (other.dtype, other.shape)
        assert np.asarray(own).tobytes() == np.asarray(other).tobytes()


RULES = [("**", "int8"), ("**/down_proj/*", "nf4@block8")]


@pytest.fixture(scope="module")
def written(safetensors_file, tmp_path_factory):
    dst = tmp_path_factory.mktemp("written") / "int8.safetensors"
    return quantize_checkpoint(safetensors_file, dst, RULES)


def test_weights_of_torch_are_scaled_by_their_outputs(written, torch_like):
    tree = load_quantized(written.where)["model"]
    layer = tree["layers"]["0"]["mlp"]
    up = torch_like["model.layers.0.mlp.up_proj.weight"]
    same(layer["up_proj"]["weight"], quantize_array(jnp.asarray(up), "int8", axis=-1))
    assert np.isnan(layer["up_proj"]["weight"].scale[:, 0]).tolist() == [i == 3 for i in range(24)]
    down = jnp.asarray(torch_like["model.layers.0.mlp.down_proj.weight"])
    same(layer["down_proj"]["weight"], quantize_array(down, "nf4@block8", axis=-1))
    gate = jnp.asarray(torch_like["model.layers.0.mlp.gate.weight"])
    same(layer["gate"]["weight"], quantize_array(gate, "int8", axis=-1))
    assert layer["gate"]["weight"].dtype == np.float16
    assert tree["conv"]["weight"].scale.shape == (8, 1, 1, 1)


def test_all_else_is_as_it_was(written, torch_like):
    source = open_source(written.where)
    kept = [path for path in source.leaves if path.replace("/", ".") in torch_like]
    for path in kept:
        array = torch_like[path.replace("/", ".")]
        assert source.leaves[path].dtype == array.dtype
        assert source.whole(path).tobytes() == array.tobytes()
    assert len(kept) == len(torch_like) - len(written.formats)
    assert source.metadata == {"format": "pt"}
    assert written.kept == {
        "model/embed_tokens/weight": "norms, biases and embeddings are kept",
        "model/eight/weight": "it has 8 bits already, float8_e4m3fn",
        "model/wide/weight": "it is float64: cast it to float32 first",
    }
    assert written.formats["model/layers/0/mlp/down_proj/weight"] == "nf4@block8"
    assert written.bytes_before == sum(x.nbytes for x in torch_like.values())


def test_the_library_reads_what_was_written(written):
    source = open_source(written.where)
    with safe_open(written.where, framework="np") as file:
        names = set(file.keys())
        assert {name.replace(".", "/") for name in names} == set(source.leaves)
        for name in names - {"model.eight.weight"}:  # of which it knows no dtype of NumPy
            own = source.whole(name.replace(".", "/"))
            other = file.get_tensor(name)
            assert (own.dtype, own.shape) == (other.dtype, other.shape)
            assert own.tobytes() == other.tobytes()


@pytest.mark.world
@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_orbax_to_either(orbax_folder, jax_like, tmp_path, suffix):
    dst = tmp_path / f"out{suffix}"
    done = quantize_checkpoint(orbax_folder, dst, "int8; Dense_0/**: mxfp4")
    assert done.kind == ("safetensors" if suffix else "orbax")
    params = quantize(jax_like["params"], "int8; Dense_0/**: mxfp4")
    wanted = jax_like | {"params": params}
    found = load_quantized(dst, like=jax_like)
    same(found["params"], params)
    assert found["opt_state"]["mu"].tobytes() == np.asarray(jax_like["opt_state"]["mu"]).tobytes()
    assert (found["step"].dtype, int(found["step"])) == (np.dtype(np.int64), 7)
    assert isinstance(load_quantized(dst)["params"]["layers"]["0"]["kernel"], QTensor)
    if not suffix:
        with ocp.StandardCheckpointer() as checkpointer:
            plain = checkpointer.restore(dst)
        values = plain["params"]["Dense_0"]["kernel"]["values"]
        assert (
            np.asarray(values).tobytes()
            == np.asarray(wanted["params"]["Dense_0"]["kernel"].values).tobytes()
        )


def test_orbax_has_no_empty_arrays_but_the_manifest_has(safetensors_file, torch_like, tmp_path):
    quantize_checkpoint(safetensors_file, tmp_path / "out", RULES, kind="orbax")
    tree = load_quantized(tmp_path / "out")
    same(
        tree, load_quantized(quantize_checkpoint(safetensors_file, tmp_path / "again", RULES).where)
    )
    assert tree["model"]["empty"].shape == (0, 3)
    assert tree["model"]["eight"]["weight"].dtype == jnp.float8_e4m3fn


def test_a_rule_says_the_axis(safetensors_file, tmp_path):
    rules = [("**", None), ("**/gate/weight", "int8", -2)]
    quantize_checkpoint(safetensors_file, tmp_path / "a.safetensors", rules)
    gate = load_quantized(tmp_path / "a.safetensors")["model"]["layers"]["0"]["mlp"]["gate"]
    assert gate["weight"].scale.shape == (1, 16)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("**", "int8"), ("**/up_prj/**", "int4")], r"'\*\*/up_prj/\*\*' matches nothing: there"),
        ([("**/up_proj/*", None)], "nothing is quantized"),
        ("int9000", "int9000"),
        ("uint4", r"nothing is quantized; .*up_proj/weight: uint4@block64 has no negative"),
    ],
)  # fmt: skip
def test_rules_are_checked_before_anything_is_read(safetensors_file, tmp_path, rules, message):
    with pytest.raises(ValueError, match=message):
        quantize_checkpoint(safetensors_file, tmp_path / "a.safetensors", rules)
    assert not list(tmp_path.iterdir())


MEASURED = """
import sys
from pathlib import Path
from precis import quantize_checkpoint

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

quantize_checkpoint(sys.argv[1], sys.argv[2], "int8")
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
done = quantize_checkpoint(sys.argv[1], sys.argv[2], "int8", overwrite=True)
print((resident("VmHWM") - before) / done.bytes_before)
"""


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells its peaks")
@pytest.mark.parametrize("name", ["kernel", "weight"])
def test_the_float_model_is_never_in_memory(tmp_path, name):
    src, dst = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({f"{i}.{name}": np.ones((2048, 4096), np.float32) for i in range(16)}, src)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(src), str(dst)], capture_output=True, check=True
    )
    assert float(done.stdout) < 0.08


@pytest.mark.parametrize("mode", ["w8", "nf4"])
def test_attention_of_flax_is_scaled_as_quantize_model_does(mode, tmp_path):
    model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=16)
    variables = model.init(jax.random.key(0), jnp.ones((1, 3, 8)))
    flat = {
        "/".join(["params", *(entry.key for entry in path)]): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
    save_file(flat, tmp_path / "float.safetensors")
    fmt = {"w8": "int8"}.get(mode, mode)
    quantize_checkpoint(tmp_path / "float.safetensors", tmp_path / "few.safetensors", fmt)
    _, wanted = quantize_model(model, variables, mode)
    same(load_quantized(tmp_path / "few.safetensors", like=variables), wanted)
