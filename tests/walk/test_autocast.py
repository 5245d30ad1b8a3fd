"""The walker against hand-written JAX, against jmp, and against itself in emulation."""

import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest
from jax import lax

from precis.walk import autocast

from .laws import UNOPTIMIZED, assert_same, compiled
from .models import (
    cross_entropy,
    decoder_batch,
    decoder_init,
    decoder_loss,
    mlp,
    mlp_init,
    rms_norm,
)


@pytest.fixture(scope="module")
def decoder():
    return decoder_init(jax.random.key(0)), decoder_batch(jax.random.key(1))


@pytest.fixture(scope="module")
def rows():
    keys = jax.random.split(jax.random.key(2))
    return jax.random.normal(keys[0], (16, 24)), jax.random.randint(keys[1], (16,), 0, 10)


@pytest.mark.world
@pytest.mark.parametrize(
    ("native", "emulated", "layers"),
    [
        ("bf16", "e8m7", "scan"),
        ("bf16", "e8m7", "remat"),
        pytest.param("bf16", "e8m7", "unrolled", marks=pytest.mark.nightly),
    ],
)
def test_emulated_formats_equal_native_ones_through_a_training_step(
    native, emulated, layers, decoder
):
    params, tokens = decoder
    optimizer = optax.adam(1e-3)

    def step(params, opt_state, policy):
        loss = autocast(lambda p, t: decoder_loss(p, t, layers=layers), policy)
        value, grads = jax.value_and_grad(loss)(params, tokens)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return value, grads, optax.apply_updates(params, updates)

    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        results = [
            compiled(lambda p, s, c=c: step(p, s, f"c={c},o=f32"), UNOPTIMIZED)(
                params, optimizer.init(params)
            )
            for c in (native, emulated)
        ]
    assert_same(results[1], results[0])


def unrolled_decoder(params, tokens):
    return decoder_loss(params, tokens, layers="unrolled")


def half_a_block(params, tokens):
    """A norm, a gelu between two products, a residual, another norm and a loss."""
    h, p = params["embed"][tokens], jax.tree.map(lambda leaf: leaf[0], params["blocks"])
    h = h + jax.nn.gelu(rms_norm(h, p["norm2"]) @ p["up"] + p["bias"]) @ p["down"]
    logits = rms_norm(h, params["norm"]) @ params["head"]
    return cross_entropy(logits[:, :-1], tokens[:, 1:])


@pytest.mark.parametrize(
    ("native", "emulated", "loss"),
    [
        ("f16", "e5m10", half_a_block),
        *(
            pytest.param(*pair, unrolled_decoder, marks=pytest.mark.nightly)
            for pair in (("f16", "e5m10"), ("bf16", "e8m7"))
        ),
    ],
)
def test_emulated_formats_equal_native_ones_op_by_op(native, emulated, loss, decoder):
    # Not jitted. Compiled as one, LLVM joins a float16 program's multiplications and additions, or
    # not, by how the loop around them looks and by what the processor has.
    results = [
        jax.value_and_grad(autocast(loss, f"c={c},o=f32"))(*decoder) for c in (native, emulated)
    ]
    assert_same(results[1], results[0])


def test_the_law_can_fail(decoder):
    params, tokens = decoder
    a, b = (compiled(autocast(decoder_loss, f"c={c}"))(params, tokens) for c in ("bf16", "e8m6"))
    assert a != b


@pytest.mark.parametrize(("text", "dtype"), [("bf16", jnp.bfloat16), ("f16", jnp.float16)])
def test_forward_equals_hand_written_casts(text, dtype, rows):
    params, (x, labels) = mlp_init(jax.random.key(0)), rows

    def by_hand(params, x, labels):
        dot = lambda x, w: lax.dot(  # noqa: E731
            x.astype(dtype), w.astype(dtype), preferred_element_type=jnp.float32
        )
        hidden, out = params["hidden"], params["out"]
        h = dot(x, hidden["kernel"]).astype(dtype) + hidden["bias"].astype(dtype)
        # The logits feed nothing but the loss, so they stay as the accumulator left them.
        logits = dot(jax.nn.relu(h), out["kernel"]) + out["bias"]
        return cross_entropy(logits, labels)

    policy = f"p=f32,c={text},o=f32"
    got = compiled(autocast(lambda p, x, y: cross_entropy(mlp(p, x), y), policy))(params, x, labels)
    assert_same(got, compiled(by_hand)(params, x, labels))


@pytest.mark.parametrize("text", ["bf16", "f16"])
def test_with_s_as_c_dense_and_relu_equal_jmp(text, rows):
    params, (x, _) = mlp_init(jax.random.key(0)), rows
    policy = jmp.get_policy(f"params=float32,compute={text},output=float32")

    def by_jmp(params, x):
        params, x = policy.cast_to_compute((params, x))
        return policy.cast_to_output(mlp(params, x))

    got = compiled(autocast(mlp, f"p=f32,c={text},s={text},o=f32"))(params, x)
    assert_same(got, compiled(by_jmp)(params, x))


@pytest.mark.parametrize(
    "low",
    [
        "mixed_bf16",
        *(pytest.param(low, marks=pytest.mark.nightly) for low in ("mixed_f16", "c=e5m3,o=f32")),
    ],
)
def test_a_policy_leaves_no_trace_in_the_process(low, decoder):
    params, tokens = decoder
    run = lambda: compiled(jax.value_and_grad(half_a_block), UNOPTIMIZED)(params, tokens)  # noqa: E731
    few = jax.value_and_grad(autocast(half_a_block, low))
    first, narrow = run(), compiled(few, UNOPTIMIZED)(params, tokens)
    assert_same(run(), first)
    assert_same(compiled(few, UNOPTIMIZED)(params, tokens), narrow)
    jax.clear_caches()
    assert_same(run(), first)


def test_under_f32_nothing_changes(decoder):
    params, tokens = decoder
    got = compiled(jax.value_and_grad(autocast(decoder_loss, "f32")), UNOPTIMIZED)(params, tokens)
    want = compiled(jax.value_and_grad(decoder_loss), UNOPTIMIZED)(params, tokens)
    assert_same(got[0], want[0])
    # The same sums in the backward products, in another layout: 32 terms each.
    bound = 64 * np.finfo(np.float32).eps
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
    ("text", "eps"),
    [("f16", 2.0**-11), pytest.param("bf16", 2.0**-8, marks=pytest.mark.nightly)],
)
def test_gradients_are_as_close_as_the_format_allows(text, eps, decoder):
    params, tokens = decoder
    want = compiled(jax.grad(decoder_loss), UNOPTIMIZED)(params, tokens)
    loss = autocast(decoder_loss, f"c={text},o=f32")
    got = compiled(jax.grad(loss), UNOPTIMIZED)(params, tokens)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        # A cotangent is rounded some ten times in each of two blocks.
        assert jnp.linalg.norm(a - b) <= 24 * eps * jnp.linalg.norm(b)


def test_weight_gradients_leave_the_accumulator_unrounded():
    x = jnp.full((4, 3), 1 + 2.0**-7, jnp.float32)
    grad = jax.grad(autocast(lambda w, x: (x @ w).sum(), "mixed_bf16"))(jnp.ones((3, 2)), x)
    exact = 4 * (1 + 2.0**-7)  # 9 bits: not a bfloat16
    np.testing.assert_array_equal(grad, exact)


@pytest.mark.parametrize(("policy", "want"), [("mixed_bf16,w=bf16", 4.03125), ("mixed_bf16", None)])
def test_weight_grad_format(policy, want):
    text = policy.replace("mixed_bf16", "p=f32,c=bf16,o=f32")
    x = jnp.full((4, 3), 1 + 2.0**-7, jnp.float32)
    grad = jax.grad(autocast(lambda w, x: (x @ w).sum(), text))(jnp.ones((3, 2)), x)
    np.testing.assert_array_equal(grad, want or 4 * (1 + 2.0**-7))


def test_residual_of_a_kernel_is_the_parameter_itself(decoder):
    """No bfloat16 copy of the stacked parameters crosses from the forward to the backward scan."""
    params, tokens = decoder
    grad = jax.grad(autocast(decoder_loss, "mixed_bf16"))
    jaxpr = jax.make_jaxpr(grad)(params, tokens)
    stacked = {leaf.shape for leaf in jax.tree.leaves(params["blocks"]) if leaf.ndim == 3}
    copies = [
        var.aval
        for eqn in jaxpr.eqns
        for var in eqn.outvars
        if var.aval.shape in stacked and var.aval.dtype == jnp.bfloat16
    ]
    assert copies == []


def test_vmap_jit_and_scan_compose(rows):
    params, (x, _) = mlp_init(jax.random.key(0)), rows
    fn = autocast(mlp, "c=bf16,o=f32")
    want = fn(params, x)
    np.testing.assert_array_equal(jax.vmap(fn, (None, 0))(params, x[:, None])[:, 0], want)
    np.testing.assert_array_equal(lax.map(lambda row: fn(params, row[None])[0], x), want)
    assert jax.jacrev(lambda x: fn(params, x))(x[:1]).shape == (1, 10, 1, 24)


def test_grad_of_grad(rows):
    params, (x, _) = mlp_init(jax.random.key(0)), rows

    def penalty(x):
        return (jax.grad(lambda x: autocast(mlp, "c=bf16,o=f32")(params, x).sum())(x) ** 2).sum()

    assert jnp.isfinite(jax.grad(penalty)(x)).all()


def test_forward_mode(rows):
    params, (x, _) = mlp_init(jax.random.key(0)), rows

    def smooth(params, x):
        return jnp.tanh(jnp.tanh(x @ params["hidden"]["kernel"]) @ params["out"]["kernel"])

    fn = autocast(smooth, "c=bf16,o=f32", forward_mode=True)
    value, tangent = jax.jvp(lambda x: fn(params, x), (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(value, autocast(smooth, "c=bf16,o=f32")(params, x))
    _, want = jax.jvp(lambda x: smooth(params, x), (x,), (jnp.ones_like(x),))
    assert jnp.linalg.norm(tangent - want) < 2.0**-5 * jnp.linalg.norm(want)


def test_forward_mode_refuses_formats_that_it_would_ignore():
    with pytest.raises(ValueError, match="forward_mode ignores g=e5m2"):
        autocast(mlp, "c=bf16,g=e5m2", forward_mode=True)
    with pytest.raises(ValueError, match="forward_mode ignores gx=f32, gw=e5m2"):
        autocast(mlp, "c=bf16,gx=f32; out/**: gw=e5m2", forward_mode=True)


def test_integers_booleans_and_keys_pass_through():
    def fn(params, key, n, flag):
        noise = jax.random.normal(key, (3,))
        return params * 2, key, n + 1, ~flag, noise

    args = jnp.ones(3), jax.random.key(0), jnp.arange(3), jnp.array(True)
    assert_same(jax.tree.map(lambda x: x, autocast(fn, "bf16")(*args)[2:4]), fn(*args)[2:4])
    assert autocast(fn, "bf16")(*args)[1].dtype == args[1].dtype


def test_constants_saturate_and_infinities_stay():
    def fn(params, x):
        del params
        lowest = jnp.where(x > 0, x, jnp.finfo(jnp.float32).min)
        return lowest, jnp.where(x > 0, x, -jnp.inf)

    lowest, minus_infinity = autocast(fn, "f16")((), jnp.float32([1.0, -1.0]))
    np.testing.assert_array_equal(lowest, np.float16([1.0, -65504.0]))
    np.testing.assert_array_equal(minus_infinity, np.float16([1.0, -np.inf]))


def test_static_arguments_stay_python_objects():
    def fn(params, x, mode, *, train):
        assert mode == "double"
        assert train is False
        return x * 2 * params

    np.testing.assert_array_equal(
        autocast(fn, "bf16")(jnp.ones(2), jnp.ones(2), "double", train=False), 2
    )


def test_outputs_of_rank_0_stay_sensitive_and_others_go_to_o():
    fn = autocast(lambda w, x: (x @ w, (x @ w).sum(), w * 2), "c=bf16,o=f16")
    out = fn(jnp.ones((3, 2)), jnp.ones((4, 3)))
    assert [leaf.dtype for leaf in out] == [jnp.float16, jnp.float32, jnp.float32]


def test_state_keeps_its_dtype():
    def fn(params, state, x):
        mean = x.mean(0)
        return (x - mean) * params, {"mean": 0.9 * state["mean"] + 0.1 * mean}

    for dtype in (jnp.float32, jnp.bfloat16):
        state = {"mean": jnp.zeros(5, dtype)}
        out, new = autocast(fn, "bf16", state_argnums=1)(jnp.ones(5), state, jnp.ones((8, 5)))
        assert out.dtype == jnp.bfloat16
        assert new["mean"].dtype == dtype


def test_loops_over_integers_are_left_alone():
    def fn(w, x, n):
        return x @ w * lax.while_loop(lambda i: i < n, lambda i: i + 1, 0)

    assert autocast(fn, "bf16")(jnp.ones((3, 3)), jnp.ones((3, 3)), jnp.int32(4))[0, 0] == 12


@pytest.mark.parametrize("policy", ["f64", "c=bf16,s=f64", "p=f32,c=f64,o=f32"])
def test_float64_without_x64_is_refused_and_not_quietly_float32(policy):
    with pytest.raises(ValueError, match="only with x64 enabled: set JAX_ENABLE_X64=1"):
        autocast(mlp, policy)({}, jnp.ones(3))


def test_bad_arguments():
    with pytest.raises(ValueError, match="'respect' or 'override'"):
        autocast(mlp, "bf16", pins="ignore")
    with pytest.raises(ValueError, match="argument 3 is named as weight, got 2"):
        autocast(mlp, "bf16", params_argnums=3)({}, jnp.ones(3))
