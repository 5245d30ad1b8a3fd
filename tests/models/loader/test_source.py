"""What lies at a path is found out by what is there; shards agree with their index."""

import json

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

from precis import quantize_checkpoint
from precis.models.loader import open_source


@pytest.fixture
def shards(tmp_path, torch_like):
    names = sorted(torch_like)
    halves = {"a-1.safetensors": names[::2], "a-2.safetensors": names[1::2]}
    for file, own in halves.items():
        save_file({name: torch_like[name] for name in own}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {n: file for file, own in halves.items() for n in own}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_shards_are_one_checkpoint(shards, safetensors_file, torch_like, tmp_path):
    one, many = open_source(safetensors_file), open_source(shards)
    assert many.leaves == one.leaves
    for path in one.leaves:
        assert many.whole(path).tobytes() == torch_like[path.replace("/", ".")].tobytes()
    done = quantize_checkpoint(shards, tmp_path / "out", "int8")
    assert (done.where / "model.safetensors").is_file()
    assert set(done.formats) == {
        f"model/layers/0/mlp/{name}/weight" for name in ("up_proj", "down_proj", "gate")
    } | {"model/conv/weight", "model/empty"}


def edited(folder, edit):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.pop("model.scalar"), "differ at model.scalar"),
        (lambda m: m.update(extra="a-1.safetensors"), "differ at extra"),
        (lambda m: m.update(extra="a-3.safetensors"), "a-3.safetensors, which is not there"),
        (lambda m: m.update(extra="../x.safetensors"), "a file beside it is wanted"),
        (lambda m: m.update(extra=3), "no index of shards|a file beside it"),
    ],
)
def test_an_index_that_does_not_agree(shards, edit, message):
    edited(shards, edit)
    with pytest.raises(ValueError, match=message):
        open_source(shards)


def test_part_of_a_leaf_is_read_along_any_axis(safetensors_file, torch_like):
    source, name = open_source(safetensors_file), "model.conv.weight"
    for axis in range(4):
        part = np.take(torch_like[name], [1, 2], axis)
        out = np.empty(part.shape, np.float32)
        source.fill("model/conv/weight", out, axis, 1)
        assert out.tobytes() == part.tobytes()


def test_orbax_by_step_and_by_item(tmp_path):
    tree = {"params": {"kernel": jnp.ones((4, 4), jnp.bfloat16)}}
    with ocp.CheckpointManager(tmp_path / "steps") as manager:
        for step in (2, 10):
            manager.save(step, args=ocp.args.StandardSave({**tree, "step": step}))
            manager.wait_until_finished()
    source = open_source(tmp_path / "steps")
    assert source.leaves["params/kernel"].dtype == jnp.bfloat16
    assert int(source.whole("step")) == 10
    assert int(open_source(tmp_path / "steps" / "2").whole("step")) == 2
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "many" / "a", tree)
        checkpointer.save(tmp_path / "many" / "b", tree)
    with pytest.raises(ValueError, match="holds 2 checkpoints, a, b: name one"):
        open_source(tmp_path / "many")


def test_nothing_that_is_known(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match="did you mean 'run'"):
        open_source(tmp_path / "rum")
    (tmp_path / "run" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"is no checkpoint: .* it holds notes\.txt"):
        open_source(tmp_path / "run")
