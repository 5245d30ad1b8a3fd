"""The walker's rules, one by one, read off the plan and off the results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.policy import read_policy
from precis.walk import audit, autocast
from precis.walk.autocast import trace
from precis.walk.program import Multiply, Opaque, Run, Scan


def steps_of(fn, *args, policy="mixed_bf16", **kwargs):
    return trace(fn, args, {}, read_policy(policy), **kwargs).program.steps


def works(fn, *args, **kwargs):
    """Formats in which each primitive computes."""
    return {
        step.eqn.primitive.name: str(step.action.work)
        for step in steps_of(fn, *args, **kwargs)
        if isinstance(step.action, Run)
    }


X = jax.ShapeDtypeStruct((8, 128), jnp.float32)
W = jax.ShapeDtypeStruct((128, 128), jnp.float32)


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (jnp.exp, "exp"),
        (jnp.log, "log"),
        (lax.rsqrt, "rsqrt"),
        (jnp.sqrt, "sqrt"),
        (lambda x: x**2, "integer_pow"),
        (lambda x: x * x, "mul"),
        (lambda x: x.sum(-1), "reduce_sum"),
        (lambda x: jnp.cumsum(x, -1), "cumsum"),
        (lambda x: x.max(-1), "reduce_max"),
        (lambda x: x**1.5, "pow"),
    ],
)
def test_openers_run_in_the_sensitive_format(fn, name):
    # With two uses the square is traced as the library writes it.
    found = works(lambda w, x: fn(x), W, X)
    assert found.get(name, found.get("square")) == "f32"


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (jnp.tanh, "tanh"),
        (lambda x: x + 1, "add"),
        (lambda x: x**3, "integer_pow"),
        (lambda x: x / 3, "div"),
    ],
)
def test_the_rest_runs_in_the_activation_format(fn, name):
    assert works(lambda w, x: fn(x), W, X)[name] == "bf16"


def test_an_island_takes_in_its_sources_and_nothing_else():
    def centered(w, x, y):
        del w
        return x - x.mean(-1, keepdims=True), x.mean(-1, keepdims=True) * y

    found = works(centered, W, X, X)
    assert found["sub"] == "f32"
    assert found["mul"] == "bf16"


def test_an_island_is_cast_back_once_at_a_matrix_op():
    def normed(w, x):
        return (x * lax.rsqrt((x**2).mean(-1, keepdims=True))) @ w

    program = trace(normed, (W, X), {}, read_policy("mixed_bf16")).program
    (step,) = [step for step in program.steps if isinstance(step.action, Multiply)]
    assert [str(program.values[slot].format) for slot in step.inputs] == ["f32", "f32"]
    assert str(step.action.roles.lhs.format) == "bf16"


def hand_over(fn, *args):
    (action,) = [s.action for s in steps_of(fn, *args) if isinstance(s.action, Multiply)]
    return str(action.roles.out)


@pytest.mark.parametrize(
    ("fn", "out"),
    [
        (lambda w, x: jax.nn.log_softmax(x @ w), "f32"),
        (lambda w, x: jax.nn.log_softmax((x @ w) * 0.25 + 1.0), "f32"),
        (lambda w, x: jax.nn.log_softmax(jnp.where(x > 0, x @ w, -1e9)), "f32"),
        (lambda w, x: jnp.tanh(x @ w), "bf16"),
        (lambda w, x: (lambda y: jax.nn.log_softmax(y) + jnp.tanh(y))(x @ w), "bf16"),
        (lambda w, x: (lambda y: (jax.nn.log_softmax(y), y))(x @ w), "bf16"),
    ],
)
def test_a_matrix_op_that_feeds_only_an_island_hands_over_its_accumulator(fn, out):
    assert hand_over(fn, W, X) == out


def test_embedded_tokens_are_activations_and_products_of_weights_are_weights():
    table = jax.ShapeDtypeStruct((50, 128), jnp.float32)
    tokens = jax.ShapeDtypeStruct((8,), jnp.int32)
    fn = lambda p, t: p["table"][t] @ (p["w"] + p["a"] @ p["b"])  # noqa: E731
    low = jax.ShapeDtypeStruct((128, 2), jnp.float32)
    params = {"table": table, "w": W, "a": low, "b": jax.ShapeDtypeStruct((2, 128), jnp.float32)}
    report = audit(fn, params, tokens, policy="mixed_bf16")
    assert [site.site.path for site in report.sites] == ["a", "w"]
    # The adapter's own product stays in float32, and is not claimed to follow the policy.
    assert [site.site.pinned for site in report.sites] == ["f32", None]
    assert report.in_force < 1


def test_paths_follow_the_data():
    def fn(p, x):
        kernel = p["deep"]["kernel"].T.reshape(128, 128)[::-1] * 2.0
        y = x @ kernel
        scores = jnp.einsum("bi,ci->bc", y, y)
        return scores @ (y @ p["out"])

    report = audit(fn, {"deep": {"kernel": W}, "out": W}, X, policy="bf16")
    paths = [site.site.path for site in report.sites]
    assert paths == ["deep/kernel", "deep/@dot0", "out", "deep/@dot1"]


def test_flops_count_trips():
    blocks = jax.ShapeDtypeStruct((5, 128, 128), jnp.float32)
    fn = lambda p, x: lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p)[0]  # noqa: E731
    report = audit(fn, blocks, X, policy="mixed_bf16")
    assert report.flops == 5 * 2 * 8 * 128 * 128
    assert report.sites[0].trips == 5


def carry_formats(fn, *args):
    (action,) = [s.action for s in steps_of(fn, *args) if isinstance(s.action, Scan)]
    return [str(fmt) for fmt in action.operands[action.num_consts :][: action.num_carry]]


def test_accumulators_stay_sensitive_and_residual_streams_do_not():
    def sums(w, xs):
        return lax.scan(lambda c, x: (c + jnp.tanh(x), None), jnp.zeros(128), xs)[0]

    def average(w, xs):
        return lax.scan(lambda c, x: (0.9 * c + 0.1 * jnp.tanh(x), None), jnp.zeros(128), xs)[0]

    def stream(w, xs):
        return lax.scan(lambda c, x: (c + jnp.tanh(c * x), None), jnp.zeros(128), xs)[0]

    assert carry_formats(sums, W, X) == ["f32"]
    assert carry_formats(average, W, X) == ["f32"]
    assert carry_formats(stream, W, X) == ["bf16"]


def test_a_long_sum_in_a_scan_does_not_stall():
    def total(w, xs):
        return lax.scan(lambda c, x: (c + x, None), jnp.float32(0), xs)[0]

    ones = jnp.ones(10_000, jnp.float32)
    assert autocast(total, "bf16")((), ones) == 10_000


def test_running_statistics_meet_data_in_the_sensitive_format():
    def normalized(w, state, x):
        return (x - state["mean"]) * lax.rsqrt(state["var"] + 1e-5)

    state = {"mean": jax.ShapeDtypeStruct((128,), jnp.float32)}
    state["var"] = state["mean"]
    assert works(normalized, W, state, X, state_argnums=1)["sub"] == "f32"


def pinned_layer(w, x):
    return (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(jnp.float32)


def test_a_pin_is_respected_and_not_in_force():
    report = audit(pinned_layer, W, X, policy="f32")
    assert report.in_force == 0
    assert report.pinned == 1
    assert any("computes in bf16, whatever the policy" in note for note in report.notes)
    with pytest.raises(ValueError, match=r"holds for 0.0% of the matrix FLOPs, 95.0% is required"):
        report.require(0.95)


def test_a_pin_may_be_overridden():
    assert audit(pinned_layer, W, X, policy="f32", pins="override").in_force == 1
    keys = jax.random.split(jax.random.key(0))
    w, x = jax.random.normal(keys[0], (16, 8)), jax.random.normal(keys[1], (4, 16))
    got = autocast(pinned_layer, "f32", pins="override")(w, x)
    np.testing.assert_allclose(got, np.float64(x) @ np.float64(w), rtol=1e-5, atol=1e-5)


def test_a_pin_that_agrees_with_the_policy_is_no_pin():
    assert audit(pinned_layer, W, X, policy="mixed_bf16").in_force == 1


def test_a_pinned_layer_computes_what_it_says():
    keys = jax.random.split(jax.random.key(0))
    w, x = jax.random.normal(keys[0], (16, 8)), jax.random.normal(keys[1], (4, 16))
    options = {"xla_allow_excess_precision": False}
    got = jax.jit(autocast(pinned_layer, "f32"), compiler_options=options)(w, x)
    np.testing.assert_array_equal(got, jax.jit(pinned_layer, compiler_options=options)(w, x))


def test_storage_is_no_pin():
    low = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), (W, X))
    assert audit(lambda w, x: x @ w, *low, policy="f32").in_force == 1


@jax.custom_vjp
def opaque(x, w):
    return x @ w


opaque.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))


def test_a_custom_vjp_is_opaque_and_named():
    fn = lambda w, x: opaque(jnp.tanh(x), w)  # noqa: E731
    report = audit(fn, W, X, policy="mixed_bf16")
    assert report.in_force == 0
    assert report.opaque_flops == 2 * 8 * 128 * 128
    assert any(note.startswith("custom_vjp_call") for note in report.notes)
    assert any(isinstance(step.action, Opaque) for step in steps_of(fn, W, X))
    grads = jax.grad(lambda w, x: autocast(fn, "mixed_bf16")(w, x).sum())
    assert grads(jnp.ones((128, 128)), jnp.ones((8, 128))).dtype == jnp.float32
