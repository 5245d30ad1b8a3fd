"""Scaled formats as policies: the walker against the same casts written by hand, and the audit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis import audit, autocast
from precis.formats import quantize_dequantize
from tests.walk.models import (
    cross_entropy,
    decoder_batch,
    decoder_init,
    decoder_loss,
    mlp,
    mlp_init,
)

PRESETS = ["fp8_hybrid", "int8", "int8_forward", "mxfp8", "nvfp4"]
OPERAND = {
    "fp8_hybrid": "e4m3fn@tensor",
    "int8": "int8@channel",
    "int8_forward": "int8@channel",
    "mxfp8": "mxfp8_e4m3",
    "nvfp4": "nvfp4",
}
# XLA without its optimizer sums in the order that is written.
OPTIONS = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def rows():
    keys = jax.random.split(jax.random.key(2))
    return jax.random.normal(keys[0], (16, 24)), jax.random.randint(keys[1], (16,), 0, 10)


@pytest.mark.world
@pytest.mark.parametrize("preset", PRESETS)
def test_forward_equals_hand_written_casts(preset, rows):
    params, (x, labels) = mlp_init(jax.random.key(0)), rows
    fmt, bf16 = OPERAND[preset], jnp.bfloat16

    def dot(x, w):
        x = quantize_dequantize(x.astype(jnp.float32), fmt, axis=-1)
        w = quantize_dequantize(w, fmt, axis=0)
        return lax.dot(x, w, precision=lax.Precision.HIGHEST)

    def by_hand(params, x, labels):
        hidden, out = params["hidden"], params["out"]
        # An operand is cast once, from what it is stored in.
        h = dot(x, hidden["kernel"]).astype(bf16) + hidden["bias"].astype(bf16)
        return cross_entropy(dot(jax.nn.relu(h), out["kernel"]) + out["bias"], labels)

    run = autocast(lambda p, x, y: cross_entropy(mlp(p, x), y), preset)
    got = jax.jit(run, compiler_options=OPTIONS)(params, x, labels)
    want = jax.jit(by_hand, compiler_options=OPTIONS)(params, x, labels)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_plan_says_what_is_emulated_and_that_all_is_in_force(preset, rows):
    params, (x, _) = mlp_init(jax.random.key(0)), rows
    found = audit(mlp, params, x, policy=preset)
    assert found.in_force == 1.0
    assert found.emulated is (preset not in ("int8", "int8_forward"))


@pytest.mark.parametrize(
    ("preset", "layers"),
    [
        pytest.param("int8", "scan", marks=pytest.mark.nightly),
        pytest.param("nvfp4", "unrolled", marks=pytest.mark.nightly),
        pytest.param("mxfp8", "remat", marks=pytest.mark.nightly),
        pytest.param("fp8_hybrid", "scan", marks=pytest.mark.nightly),
    ],
)
def test_gradients_of_a_decoder_point_the_way_of_float32(preset, layers):
    params, tokens = decoder_init(jax.random.key(0)), decoder_batch(jax.random.key(1))
    loss = lambda p, t: decoder_loss(p, t, layers=layers)  # noqa: E731
    run = jax.jit(jax.value_and_grad(autocast(loss, preset)), compiler_options=OPTIONS)
    value, grads = run(params, tokens)
    want, plain = jax.jit(jax.value_and_grad(loss))(params, tokens)
    # A random start: the loss is about log(64), and few bits move it by little.
    assert abs(value - want) < 0.05 * want
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(plain), strict=True):
        size = float(jnp.linalg.norm(theirs))
        if size == 0:
            np.testing.assert_array_equal(ours, theirs)
            continue
        cosine = float(jnp.vdot(ours, theirs)) / float(jnp.linalg.norm(ours)) / size
        # About ten roundings lie between a weight and the loss, of 3% rms (e4m3) or 15% (e2m1)
        # each: together e = 10% or 50%, and a cosine of 1 - e² / 2.
        assert cosine > (0.8 if preset == "nvfp4" else 0.97)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (grads, plain)), strict=True))


def test_forward_mode_takes_scaled_formats(rows):
    params, (x, _) = mlp_init(jax.random.key(0)), rows
    run = autocast(mlp, "p=f32,c=int8,g=bf16,o=f32")
    with pytest.raises(ValueError, match="forward_mode"):
        autocast(mlp, "p=f32,c=int8,g=bf16,o=f32", forward_mode=True)(params, x)
    forward = autocast(mlp, "int8", forward_mode=True)
    out, tangent = jax.jvp(lambda x: forward(params, x), (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(out, run(params, x))
    assert jnp.isfinite(tangent).all()


@pytest.mark.world
def test_a_diverged_value_stays_visible(rows):
    params, (x, _) = mlp_init(jax.random.key(0)), rows
    for policy in ("int8", "mxfp8", "nvfp4", "p=f32,c=e2m1,o=f32"):
        out = autocast(mlp, policy)(params, x.at[3, 5].set(jnp.nan))
        assert jnp.isnan(out[3]).all(), policy
