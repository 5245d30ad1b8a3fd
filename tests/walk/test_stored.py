"""Weights in few bits, carried by the walker to their matrix ops through whatever lies between."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from precis.quant import Kernel, dequantize, quantize, quantize_array
from precis.walk import audit, autocast
from tests.draws import normal

from .models import decode, decode_init, decoder_batch, decoder_init, decoder_loss

KEY = jax.random.key(0)
X, W = normal(1, 6, 64), normal(2, 64, 32, scale=1 / 8)
# Everything in float32 but for what is stored, so that only the order of roundings differs.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def dequantized(report):
    return [finding for finding in report.findings if finding.kind == "dequantized"]


@pytest.mark.nightly  # scans over codes are tested by day through linen and nnx
@pytest.mark.parametrize("layers", ["scan", "remat", "unrolled"])
def test_a_decoder_runs_on_codes_however_its_layers_are_run(layers):
    params, tokens = decoder_init(KEY), decoder_batch(KEY)
    rules = [("**", "int8"), ("embed", "int8", -1)]
    q = quantize(params, rules, keep=("**/bias", "norm", "**/norm*"))
    fn = functools.partial(decoder_loss, layers=layers)
    report = audit(fn, q, tokens, policy="f32")
    assert not dequantized(report)
    kinds = {site.site.path: site.formats for site in report.sites}
    assert kinds["blocks/qkv"] == kinds["head"] == "f32·int8@channel"
    got = jax.jit(autocast(fn, "f32"))(q, tokens)
    np.testing.assert_allclose(got, fn(dequantize(q), tokens), **CLOSE)


def test_a_while_loop_takes_codes_whole():
    params = decode_init(KEY)
    q = quantize(params, "int8; embed: f32")
    report = audit(decode, q, jnp.int32(5), policy="f32")
    assert not dequantized(report)
    got = jax.jit(autocast(decode, "f32"))(q, jnp.int32(5))
    want = decode(dequantize(q), jnp.int32(5))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[2], want[2], **CLOSE)


def handed_on(w, x):
    """A weight that a loop carries along and hands back."""
    return lax.fori_loop(0, 3, lambda _, s: (s[0], jnp.tanh(s[1] @ s[0])), (w, x))


def updated(w, x):
    """A weight that a loop changes: it is a float from the first step on."""
    return lax.fori_loop(0, 3, lambda _, s: (s[0] * 0.5, jnp.tanh(s[1] @ s[0])), (w, x))[1]


def chosen(w, x):
    """One of two weights, chosen by data."""
    return x @ lax.cond(x[0, 0] > 0, lambda: w, lambda: w.T)


def test_carries_stay_as_they_are_or_are_opened_at_the_door():
    q = quantize_array(W[:32], "int8")
    w, x = dequantize(q), X[:, :32]
    same, got = jax.jit(autocast(handed_on, "f32"))(q, x)
    assert isinstance(same, type(q))
    np.testing.assert_array_equal(same.values, q.values)
    np.testing.assert_allclose(got, handed_on(w, x)[1], **CLOSE)
    np.testing.assert_allclose(jax.jit(autocast(updated, "f32"))(q, x), updated(w, x), **CLOSE)
    assert dequantized(audit(updated, q, x, policy="f32"))
    # Codes of a transposed weight have other axes: both branches hand over a float.
    np.testing.assert_allclose(jax.jit(autocast(chosen, "f32"))(q, x), chosen(w, x), **CLOSE)


MOVES = {
    "as it is": lambda w, x: x @ w,
    "transposed": lambda w, x: jnp.einsum("ki,bk->bi", w.T.T, x),
    "backwards": lambda w, x: (x @ w) @ w.T,
    "split in heads": lambda w, x: jnp.einsum("bk,khd->bhd", x, w.reshape(64, 4, 8)),
    "in parts": lambda w, x: x @ w[:, 4:20],
    "one at a time": lambda w, x: x @ lax.dynamic_slice_in_dim(w, x.shape[0], 8, 1),
    "named": lambda w, x: x @ checkpoint_name(w, "kernel"),
    "in a jit": lambda w, x: jax.jit(jnp.matmul)(x, w),
    "weight first": lambda w, x: w.T @ x.T,
}


def test_rearrangements_follow_the_algebra():
    q = quantize_array(W, "int8")
    every = jax.jit(lambda q, x: {name: autocast(fn, "f32")(q, x) for name, fn in MOVES.items()})
    for name, got in every(q, X).items():
        np.testing.assert_allclose(got, MOVES[name](dequantize(q), X), err_msg=name, **CLOSE)
        assert not dequantized(audit(MOVES[name], q, X, policy="f32")), name


OPENED = {
    "masked": lambda w, x: x @ jnp.maximum(w, 0),
    "split along its groups": lambda w, x: x @ jnp.concatenate([w[::2], w[1::2]]),
    "multiplied by itself": lambda w, x: x @ (w @ w.T),
    "gathered by columns": lambda w, x: x @ w[:, jnp.array([3, 1])],
    "custom": lambda w, x: _custom(w, x),
    "wrapped": lambda w, x: x @ jnp.flip(w, 0),
}


@jax.custom_vjp
def _custom(w, x):
    return x @ w


_custom.defvjp(lambda w, x: (x @ w, (w, x)), lambda saved, g: (saved[1].T @ g, g @ saved[0].T))


def test_any_other_op_dequantizes_for_itself_and_says_so():
    q = quantize_array(W, "int8")
    every = jax.jit(lambda q, x: {name: autocast(fn, "f32")(q, x) for name, fn in OPENED.items()})
    for name, got in every(q, X).items():
        np.testing.assert_allclose(got, OPENED[name](dequantize(q), X), err_msg=name, **CLOSE)
        assert dequantized(audit(OPENED[name], q, X, policy="f32")), name


def test_rows_that_are_looked_up_are_dequantized_alone():
    table = quantize_array(normal(0, 50, 16), "int8", axis=-1)
    fn = lambda t, i: jnp.take(t, i, axis=0)  # noqa: E731
    indices = jnp.array([[3, 49], [0, 50]])
    got = jax.jit(autocast(fn, "f32"))(table, indices)
    np.testing.assert_array_equal(got, fn(dequantize(table), indices))
    assert not dequantized(audit(fn, table, indices, policy="f32"))
    compiled = jax.jit(autocast(fn, "f32")).lower(table, indices).compile()
    assert "f32[50,16]" not in compiled.as_text()


def test_a_kernel_travels_as_its_weight_does():
    stack = normal(0, 3, 64, 64, scale=1 / 8)
    q = quantize_array(stack, "int8")
    amax = jnp.float32([1.5, 0.4, 0.25]).reshape(3, 1, 1)
    kernel = Kernel(q, input_amax=amax, smoothing=jnp.full((3, 64, 1), 2.0))
    fn = lambda w, x: lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]  # noqa: E731
    report = audit(fn, kernel, X, policy="f32")
    assert [site.formats for site in report.sites] == ["int8@tensor·int8@channel"]
    h = X
    for w, largest in zip(dequantize(kernel), amax.ravel(), strict=True):
        step = 2 * largest / 127
        h = jnp.tanh((jnp.clip(jnp.round(h / step), -128, 127) * step) @ w)
    got = jax.jit(autocast(fn, "f32"))(kernel, X)
    # A tie that a last bit decides otherwise moves a value by one step.
    assert np.abs(got - h).max() < 0.01
    assert np.mean(np.abs(got - h) > 1e-4) < 0.05


def test_codes_that_a_loop_reads_twice_are_differentiated_op_by_op():
    """In loops that are not jitted 16-bit values fork at each use; codes have no such cotangent."""
    stack = normal(0, 3, 64, 64, scale=1 / 8).astype(jnp.bfloat16)
    tangent = jnp.zeros(stack.shape)
    q = quantize_array(stack, "int8@tensor")

    def loss(tangent, x):
        body = lambda h, w: (jnp.tanh(h @ w) + h @ w.T, None)  # noqa: E731
        fn = autocast(lambda w, x: jnp.mean(lax.scan(body, x, w)[0] ** 2), "c=bf16")
        return fn(Kernel(q, tangent=tangent), x)

    gradient = jax.grad(loss, (0, 1))
    for got, want in zip(gradient(tangent, X), jax.jit(gradient)(tangent, X), strict=True):
        # A sum of cotangents is rounded op by op, and need not be compiled.
        assert np.linalg.norm(got - want) <= 0.01 * np.linalg.norm(want)


@pytest.mark.world
@pytest.mark.parametrize("first", ["quantized", "float"])
def test_quantized_and_float_in_one_process(first):
    fn = lambda w, x: jnp.tanh(x @ w)  # noqa: E731
    q = quantize_array(W, "int8")
    runs = {
        "quantized": lambda: jax.jit(autocast(fn, "c=int8,x=f32,o=f32"))(q, X),
        "float": lambda: jax.jit(fn)(W, X),
    }
    results = {}
    for name in (first, *(set(runs) - {first})):
        results[name] = runs[name]()
    np.testing.assert_allclose(results["float"], np.tanh(np.asarray(X) @ np.asarray(W)), atol=1e-5)
    assert 1e-4 < np.abs(results["quantized"] - results["float"]).max() < 0.05


def mlp(params, x):
    return jnp.maximum(x @ params["up"], 0) @ params["down"]


@pytest.fixture(scope="module")
def wide():
    keys = jax.random.split(KEY)
    params = {
        "up": jax.random.normal(keys[0], (256, 1024)) / 16,
        "down": jax.random.normal(keys[1], (1024, 256)) / 32,
    }
    return quantize(params, "int8"), jax.random.normal(keys[0], (200, 256))


DOT = re.compile(r" = (\w+)\[[^ ]* (?:dot|custom-call)\((\w+)?")


@pytest.mark.parametrize(
    ("policy", "rows"), [("c=int8", 200), ("c=int8", 1), ("c=bf16", 100), ("c=bf16", 1)]
)
def test_the_compiled_products_are_of_integers_and_no_weight_is_widened(wide, policy, rows):
    q, x = wide
    run = jax.jit(autocast(mlp, f"{policy},x=f32,o=f32")).lower(q, x[:rows]).compile()
    text = run.as_text()
    report = audit(mlp, q, x[:rows], policy=f"{policy},x=f32,o=f32", compiled=True)
    if jax.__version_info__ >= (0, 10):
        assert {name for ran in report.ran.values() for name in ran.forward} == {"int8·int8→int32"}
    assert report.in_force == 1.0
    for shape in ("256,1024", "1024,256", "1024,1024"):
        for dtype in ("f32", "bf16", "s32"):
            assert f"{dtype}[{shape}]" not in text or shape == "1024,1024"
    assert not [f for f in report.findings if f.kind in ("widened", "ran otherwise")]


def test_what_a_frozen_weight_leaves_for_the_backward_pass_is_its_codes():
    layers, width, rows = 8, 256, 4
    stack = normal(0, layers, width, width, scale=1 / 16)
    q = quantize_array(stack, "int8")
    x = jnp.ones((rows, width))
    fn = lambda w, x: lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0].sum()  # noqa: E731

    def used(fn, w):
        run = jax.jit(jax.grad(lambda x, w: fn(w, x))).lower(x, w).compile()
        figures = run.memory_analysis()
        return figures.temp_size_in_bytes, run.as_text()

    for policy in ("c=int8,x=f32,o=f32", "c=bf16,x=f32,o=f32"):
        temporary, text = used(autocast(fn, policy), q)
        # No stack of floats; one layer at a time is widened for its own cotangent.
        assert not re.search(rf"(f32|bf16)\[{layers},{width},{width}\]", text)
        assert temporary < layers * width * width
    naive, _ = used(lambda w, x: fn(dequantize(w), x), q)
    assert naive > 4 * layers * width * width


def test_gradients_with_respect_to_inputs_go_straight_through():
    q = quantize_array(W, "int8")
    loss = lambda w, x: jnp.sum(jnp.sin(x @ w))  # noqa: E731
    got = jax.jit(jax.grad(lambda x: autocast(loss, "c=bf16,g=f32,x=f32,o=f32")(q, x)))(X)
    want = jax.grad(loss, 1)(dequantize(q), X)
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
    other = {"w": q, "b": jnp.zeros(32)}
    fn = lambda p, x: jnp.sum(jnp.sin(x @ p["w"] + p["b"]))  # noqa: E731
    grad = jax.grad(lambda b: autocast(fn, "f32")({**other, "b": b}, X))(other["b"])
    wide = jax.grad(lambda b: fn({"w": dequantize(q), "b": b}, X))(other["b"])
    np.testing.assert_allclose(grad, wide, rtol=1e-4, atol=1e-4)


def test_rules_by_path_decide_about_the_other_operand(wide):
    q, x = wide
    report = audit(mlp, q, x, policy="c=bf16,o=f32; down: c=int8")
    formats = {site.site.path: site.formats for site in report.sites}
    assert formats == {"up": "bf16·int8@channel", "down": "int8·int8@channel"}
    record = report.record()["sites"][0]
    assert record["reason"].endswith("stored as int8@channel: its codes multiply")
    assert record["bytes"] == 200 * 256 * 2 + 256 * 1024 + 200 * 1024 * 2


def test_a_model_in_float16_stays_in_float16():
    w = (W / 100).astype(jnp.float16)
    q = quantize_array(w, "int8")
    fn = lambda w, x: x.astype(jnp.float16) @ w.astype(jnp.float16)  # noqa: E731
    for policy, kind in (("c=int8,o=f32", "int8"), ("f32", "f16")):
        report = audit(fn, q, X, policy=policy)
        assert report.sites[0].formats == f"{kind}·int8@channel"
        got = jax.jit(autocast(fn, policy))(q, X)
        want = np.asarray(X) @ np.asarray(dequantize(q), np.float32)
        np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())
        assert np.abs(got).max() > 0
