"""The CNN against NumPy in float64."""

import jax
import numpy as np
import pytest
from flax import nnx

from precis.adapters import bind
from precis.models import CNN


def convolve(x, kernel, stride):
    """XLA's SAME: as many windows as ceil(size / stride), the odd row of padding at the end."""
    size, (k, *_) = x.shape[1], kernel.shape
    outs = -(-size // stride)
    padding = max((outs - 1) * stride + k - size, 0)
    before = padding // 2
    x = np.pad(x, ((0, 0), *[(before, padding - before)] * 2, (0, 0)))
    out = np.zeros((len(x), outs, outs, kernel.shape[-1]))
    for i, j in np.ndindex(outs, outs):
        window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
        out[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel)
    return out


def normalize(x, p, statistics, *, train):
    mean, var = (
        (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (statistics["mean"], statistics["var"])
    )
    return np.maximum((x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"], 0)


@pytest.mark.parametrize("train", [False, True])
def test_logits_are_those_of_the_oracle(train):
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    params, state, apply = bind(CNN(channels=4, classes=3, rngs=nnx.Rngs(0)))
    out, _ = jax.jit(apply, static_argnames="train")(params, state, x, train=train)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    h = convolve(x.astype(np.float64), p["conv1"]["kernel"], 1)
    h = normalize(h, p["norm1"], state["norm1"], train=train)
    h = convolve(h, p["conv2"]["kernel"], 2)
    h = normalize(h, p["norm2"], state["norm2"], train=train)
    wanted = h.mean((1, 2)) @ p["head"]["kernel"] + p["head"]["bias"]
    # Sums of at most 192 terms of order 1, normalized: about a hundred roundings of 2^-24.
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-4)
