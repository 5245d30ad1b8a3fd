"""Checkpoints as others write them: by the safetensors library and by orbax."""

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="session")
def torch_like():
    """Arrays by the names and in the layout of PyTorch, in all kinds of dtypes."""
    layer = {
        "mlp.up_proj.weight": draw(0, 24, 16),
        "mlp.down_proj.weight": draw(1, 16, 24).astype(jnp.bfloat16),
        "mlp.gate.weight": draw(2, 24, 16).astype(np.float16),
        "mlp.up_proj.bias": draw(3, 24),
        "input_layernorm.weight": draw(4, 16),
    }
    layer["mlp.up_proj.weight"][3, 5] = np.nan
    return {
        "model.embed_tokens.weight": draw(5, 40, 16),
        "model.conv.weight": draw(6, 8, 4, 3, 3),
        **{f"model.layers.0.{name}": x for name, x in layer.items()},
        "model.eight.weight": draw(7, 4, 8).astype(jnp.float8_e4m3fn),
        "model.wide.weight": draw(8, 4, 8).astype(np.float64),
        "model.empty": np.zeros((0, 3), np.float32),
        "model.scalar": np.array(2.5, np.float32),
        "model.batches": np.array(3, np.int64),
        "model.mask": np.array([True, False, True]),
    }


@pytest.fixture(scope="session")
def jax_like():
    """A train state in the layout of JAX."""
    return {
        "params": {
            "Dense_0": {"kernel": jnp.asarray(draw(0, 16, 24)), "bias": jnp.zeros(24)},
            "layers": [
                {"kernel": jnp.asarray(draw(1, 24, 8), jnp.bfloat16)},
                {"scale": jnp.ones(8)},
            ],
        },
        "opt_state": {"mu": jnp.asarray(draw(2, 16, 24))},
        "step": np.int64(7),
    }


@pytest.fixture(scope="session")
def safetensors_file(torch_like, tmp_path_factory):
    path = tmp_path_factory.mktemp("safetensors") / "model.safetensors"
    save_file(torch_like, path, metadata={"format": "pt"})
    return path


@pytest.fixture(scope="session")
def orbax_folder(jax_like, tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax") / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, jax_like)
    return folder
