"""The decoder against NumPy in float64, layer by layer without a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from precis.adapters import bind
from precis.models import Decoder, DecoderConfig
from precis.models.decoder import rotate
from precis.tree import leaves_with_paths

CONFIG = DecoderConfig(vocabulary=11, dim=8, layers=3, heads=2, hidden=12)
TOKENS = np.random.default_rng(0).integers(11, size=(2, 7)).astype(np.uint8)


def norm(x, scale):
    # nnx.RMSNorm's epsilon.
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def turned(x):
    # As complex numbers: the pair (i, i + half) times e^(i · position · frequency).
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None, None] * 10_000.0 ** (-np.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], -1)


def attend(x, p):
    batch, length, dim = x.shape
    q, k, v = np.split((x @ p["qkv"]["kernel"]).reshape(batch, length, CONFIG.heads, -1), 3, -1)
    q, k = turned(q), turned(k)
    out = np.zeros_like(v)
    for b, t, h in np.ndindex(batch, length, CONFIG.heads):
        scores = k[b, : t + 1, h] @ q[b, t, h] / np.sqrt(dim / CONFIG.heads)
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ v[b, : t + 1, h]
    return out.reshape(batch, length, dim) @ p["out"]["kernel"]


def mlp(x, p):
    gate = x @ p["gate"]["kernel"]
    return (gate / (1 + np.exp(-gate)) * (x @ p["up"]["kernel"])) @ p["down"]["kernel"]


def oracle(params, tokens):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = params["embed"]["embedding"][tokens]
    for i in range(CONFIG.layers):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        x = x + attend(norm(x, layer["norm1"]["scale"]), layer["attention"])
        x = x + mlp(norm(x, layer["norm2"]["scale"]), layer["mlp"])
    return norm(x, params["norm"]["scale"]) @ params["head"]["kernel"]


@pytest.fixture(scope="module")
def bound():
    return bind(Decoder(CONFIG, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def logits(bound):
    call = jax.jit(lambda tokens: bound.apply(bound.params, bound.state, tokens)[0])
    return lambda tokens: np.asarray(call(tokens))


def test_logits_are_those_of_the_oracle(bound, logits):
    # Sums of at most 12 terms of order 1, through three layers: some tens of roundings of 2^-24.
    np.testing.assert_allclose(logits(TOKENS), oracle(bound.params, TOKENS), rtol=1e-4, atol=1e-5)


def test_no_position_sees_what_comes_after_it(logits):
    for t in range(7):
        later = TOKENS.copy()
        later[:, t:] = (later[:, t:] + 1) % 11
        changed = logits(later) != logits(TOKENS)
        assert not changed[:, :t].any()
        assert changed[:, t:].any(axis=-1).all()


def test_layers_are_stacked_and_differ(bound):
    paths = dict(leaves_with_paths(bound.params))
    stacked = {path for path in paths if path.startswith("layers/")}
    assert {"layers/attention/qkv/kernel", "layers/mlp/down/kernel"} <= stacked
    assert all(paths[path].shape[0] == CONFIG.layers for path in stacked)
    assert {leaf.dtype for leaf in paths.values()} == {jnp.dtype("float32")}
    kernel = np.asarray(paths["layers/mlp/up/kernel"])
    assert (kernel[0] != kernel[1]).any()


def test_one_scan_runs_all_layers(bound):
    jaxpr = jax.make_jaxpr(lambda p: bound.apply(p, bound.state, TOKENS)[0])(bound.params)
    scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert [eqn.params["length"] for eqn in scans] == [CONFIG.layers]


@pytest.mark.parametrize("shift", [1, 5])
def test_rotated_products_depend_on_distance_alone(shift):
    rng = np.random.default_rng(1)
    q, k = (np.broadcast_to(rng.normal(size=(1, 1, 1, 8)), (1, 12, 1, 8)) for _ in range(2))
    q, k = (np.asarray(rotate(jnp.asarray(x, jnp.float32)))[0, :, 0] for x in (q, k))
    products = q @ k.T
    # Angles up to 12 radians are known to 2^-21, and eight products of order 1 are summed.
    np.testing.assert_allclose(
        products[shift:, shift:], products[:-shift, :-shift], rtol=1e-4, atol=1e-4
    )
    assert np.ptp(products[0]) > 0.1


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"multiple of 2 · heads.*got dim=8, heads=3"):
        DecoderConfig(dim=8, heads=3)
