"""Statistics of what weights meet, for functions, linen and nnx, against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from precis.models import MLP, Decoder, DecoderConfig
from precis.ptq import calibrate, quantize_model
from precis.quant import quantize


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.world
def test_a_function_by_hand():
    weights = {"in": normal(0, 3, 4), "out": normal(1, 5, 4)}
    batches = [normal(2, 6, 3), 3 * normal(3, 6, 3)]

    def fn(weights, x):
        return jnp.tanh(x @ weights["in"]) @ weights["out"].T

    found = calibrate(fn, weights, batches)
    x = np.concatenate(batches).astype(np.float64)
    hidden = np.abs(np.tanh(x @ np.asarray(weights["in"], np.float64)))
    np.testing.assert_array_equal(found.columns["in"][:, 0], np.abs(np.concatenate(batches)).max(0))
    np.testing.assert_allclose(found.columns["out"], hidden.max(0)[None], rtol=1e-6)
    np.testing.assert_allclose(found.amax["out"], hidden.max(keepdims=True), rtol=1e-6)
    assert (found.unseen, found.nonfinite) == ({}, ())


def layer_by_layer(model, tokens):
    """The inputs of qkv and down in each layer, by running the layers one by one."""
    x, seen = model.embed(tokens), []
    graphdef, weights = nnx.split(model.layers)
    for i in range(2):
        layer = nnx.merge(graphdef, jax.tree.map(lambda w, i=i: w[i], weights))
        normed = layer.norm1(x)
        x = x + layer.attention(normed)
        mlp = layer.mlp
        second = layer.norm2(x)
        hidden = jax.nn.silu(mlp.gate(second)) * mlp.up(second)
        x = x + mlp.down(hidden)
        seen.append((normed, hidden))
    return seen


@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_the_layers_of_a_scanned_decoder_each_have_their_own(remat):
    config = DecoderConfig(vocabulary=32, dim=16, layers=2, heads=2, remat=remat)
    model = Decoder(config, rngs=nnx.Rngs(0))
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, 32)
    found = calibrate(model, None, [tokens])
    # Norms of stacked layers have two axes as well.
    assert set(found.unseen) == {"embed/embedding", "layers/norm1/scale", "layers/norm2/scale"}
    assert "no matrix op" in found.unseen["embed/embedding"]
    for i, (normed, hidden) in enumerate(jax.jit(lambda: layer_by_layer(model, tokens))()):
        for path, x in (("attention/qkv", normed), ("mlp/down", hidden)):
            columns = found.columns[f"layers/{path}/kernel"]
            wanted = np.abs(x).reshape(-1, x.shape[-1]).max(0)
            np.testing.assert_allclose(columns[i, :, 0], wanted, rtol=1e-5)
            amax = found.amax[f"layers/{path}/kernel"]
            assert (amax.shape, columns.shape) == ((2, 1, 1), (2, x.shape[-1], 1))
            assert amax[i, 0, 0] == columns[i].max()


def test_linen_attention_and_convolutions():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3,))(x)
            return nn.MultiHeadDotProductAttention(num_heads=2)(x, x)

    x = normal(0, 2, 5, 3)
    variables = Model().init(jax.random.key(1), x)
    found = calibrate(Model(), variables, [x])
    attention = "MultiHeadDotProductAttention_0"
    assert float(found.amax["Conv_0/kernel"].reshape(())) == np.abs(x).max()
    assert "Conv_0/kernel" not in found.columns
    assert found.columns[f"{attention}/query/kernel"].shape == (8, 1, 1)
    assert found.columns[f"{attention}/out/kernel"].shape == (2, 4, 1)


def test_statistics_bring_inputs_to_int8():
    x = normal(0, 16, 64)
    params = MLP().init(jax.random.key(0), x)["params"]
    found = calibrate(MLP(), params, [x])
    fn, qparams = quantize_model(MLP(), params, "w8a8_static", input_amax=found.amax)
    exact, out = jax.jit(MLP().apply)({"params": params}, x), jax.jit(fn)(qparams, x)
    noise = float(jnp.mean(jnp.square(out - exact)) / jnp.mean(jnp.square(exact)))
    assert -10 * np.log10(noise) > 30


def test_a_nan_is_seen():
    x = jnp.ones((4, 3)).at[2, 1].set(jnp.nan)
    found = calibrate(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}, [jnp.ones((4, 3)), x])
    np.testing.assert_array_equal(found.columns["w"], [[1], [np.nan], [1]])
    assert found.nonfinite == ("w",)
    fn, qparams = quantize_model(
        lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}, "w8a8_static", input_amax=found.amax
    )
    assert jnp.isnan(fn(qparams, jnp.ones((4, 3)))).all()


def test_what_is_not_seen_is_named_with_the_reason():
    weights = {"looped": jnp.eye(2), "scaled": jnp.eye(2), "free": jnp.ones((2, 2))}

    def fn(p, x):
        x = lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ p["looped"] + 1, x)
        return x @ (p["scaled"] * 2)

    unseen = calibrate(fn, weights, [jnp.ones((1, 2))]).unseen
    assert "while" in unseen["looped"]
    assert "rearranged" in unseen["scaled"]
    assert "no matrix op" in unseen["free"]


def test_parameters_in_few_bits_are_refused():
    low = quantize({"w": jnp.ones((4, 4))}, "int8")
    with pytest.raises(ValueError, match="w is in few bits"):
        calibrate(lambda p, x: x @ p["w"], low, [jnp.ones((1, 4))])


def test_batches_are_wanted():
    with pytest.raises(ValueError, match="batches are wanted"):
        calibrate(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}, [])
