"""Traps that a first version fell into, each found by a reader who looked for wrong bits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from precis.formats import round_to
from precis.walk import audit, autocast
from tests.draws import normal

from .laws import compiled


@pytest.fixture(autouse=True)
def standard_promotion(strict_promotion):
    with jax.numpy_dtype_promotion("standard"):  # flax relies on it
        yield


NORMS = [
    nn.LayerNorm(),
    nn.LayerNorm(use_fast_variance=False),
    nn.RMSNorm(),
    nn.GroupNorm(num_groups=4),
]


@pytest.mark.parametrize("module", NORMS, ids=["layer", "layer slow", "rms", "group"])
@pytest.mark.parametrize("width", [8, 32, 256])
def test_norms_are_islands_however_narrow(module, width):
    # A mean of 10 rounded to bfloat16, or its square, leaves nothing of a deviation of 0.1.
    x = round_to(10 + 0.1 * normal(0, 64, width), "bf16")
    variables = module.init(jax.random.key(1), x)
    got = autocast(module.apply, "p=f32,c=bf16,o=f32")(variables, x)
    np.testing.assert_allclose(got, module.apply(variables, x), rtol=0, atol=1e-4)


def test_batch_norm_statistics_are_exact():
    x = round_to(10 + 0.1 * normal(0, 32, 8), "bf16")
    module = nn.BatchNorm(use_running_average=False)
    variables = module.init(jax.random.key(1), x)
    run = lambda v, x: module.apply(v, x, mutable="batch_stats")  # noqa: E731
    got, want = autocast(run, "c=bf16,o=f32")(variables, x), run(variables, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_statistics_across_a_named_axis_are_exact():
    x = round_to(10 + 0.1 * normal(0, 4, 16, 8), "bf16")
    module = nn.BatchNorm(use_running_average=False, axis_name="i")
    variables = module.init(jax.random.key(1), x[0])
    run = lambda v, x: module.apply(v, x, mutable="batch_stats")[0]  # noqa: E731
    got = jax.vmap(lambda x: autocast(run, "c=bf16,o=f32")(variables, x), axis_name="i")(x)
    want = jax.vmap(lambda x: run(variables, x), axis_name="i")(x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_collections_but_params_are_state():
    module = nn.BatchNorm(use_running_average=True)
    x = 10 + 0.1 * normal(0, 32, 8)
    variables = module.init(jax.random.key(1), x)
    variables["batch_stats"] = {"mean": jnp.full(8, 10.01), "var": jnp.full(8, 0.01)}
    out = autocast(module.apply, "bf16")(variables, x)
    assert out.dtype == jnp.bfloat16  # data that is centered by a statistic is no statistic
    got = autocast(module.apply, "c=f32,x=f32")(variables, x)
    np.testing.assert_allclose(got, module.apply(variables, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_batch_that_the_loss_closes_over_is_under_the_policy(where):
    w, x, tokens = normal(0, 16, 16), normal(1, 8, 16), jnp.arange(8) % 4
    table = normal(2, 4, 16)

    def dense(p):
        return jnp.tanh(x @ p["w"]) @ p["w"]

    def embedded(p):
        return p["table"][tokens] @ p["w"]

    params = {"w": w, "table": table}
    for fn in (dense, embedded):
        report = audit(fn, params, policy="mixed_bf16")
        assert report.flops > 0
        assert report.in_force == 1
        run = autocast(fn, "bf16")
        out = run(params) if where == "outside" else jax.jit(run)(params)
        assert out.dtype == jnp.bfloat16


def test_a_masked_parameter_is_a_parameter():
    mask = jnp.arange(16.0) > 3
    scale = jnp.arange(256.0).reshape(16, 16)
    fn = lambda w, x: x @ jnp.where(mask, w * scale, 0.0)  # noqa: E731
    report = audit(fn, normal(0, 16, 16), normal(1, 8, 16), policy="c=bf16,k=e5m3,o=f32")
    assert [site.site.path for site in report.sites] == [""]
    assert report.in_force == 1


def test_scan_constants_collect_their_cotangents_in_float32():
    def total(p, x):
        y = jnp.tanh(x * p)
        step = lambda carry, t: (carry + y * t, None)  # noqa: E731
        return lax.scan(step, jnp.zeros(3), jnp.ones(2000))[0].sum()

    for policy in ("mixed_bf16", "c=e8m7,o=f32"):
        grad = jax.grad(autocast(total, policy), argnums=1)(jnp.float32(1.0), jnp.zeros(3))
        np.testing.assert_array_equal(grad, 2000.0)


@pytest.mark.parametrize(
    ("native", "emulated"),
    [("bf16", "e8m7"), pytest.param("f16", "e5m10", marks=pytest.mark.nightly)],
)
def test_the_law_holds_where_bodies_take_a_value_twice(native, emulated):
    p, x = normal(0, 16, 16) / 4, normal(1, 8, 16)

    def twice_in_one_call(p, x):
        y = jnp.tanh(x @ p)
        return (jax.checkpoint(lambda a, b: jnp.tanh(a @ p) * b)(y, y) * y).sum()

    def twice_in_a_body(p, x):
        y = jnp.tanh(x @ p)
        return (lax.scan(lambda c, t: (jnp.tanh(c @ p * t), c), y[0][None], y)[1] * y).sum()

    for fn in (twice_in_one_call, twice_in_a_body):
        got, want = (
            jax.grad(autocast(fn, f"p=f32,c={c},o=f32"), (0, 1))(p, x) for c in (emulated, native)
        )
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_cotangents_of_what_was_moved_are_summed_in_its_format():
    """And not only where it was made: there they meet others."""
    p, x = normal(0, 16, 16) / 4, normal(1, 8, 16)

    def loss(p, x):
        y = jnp.tanh(x @ p)
        moved = y.T
        return (jnp.tanh(moved.T @ p) * y + jnp.tanh(p @ moved).T).sum()

    native, emulated = (
        compiled(jax.grad(autocast(loss, f"c={c},o=f32"), 1))(p, x) for c in ("bf16", "e8m7")
    )
    np.testing.assert_array_equal(emulated, native)


def test_constants_of_matrix_ops_saturate():
    large = np.eye(16, dtype=np.float32) * 1e5
    out = autocast(lambda w, x: (x * 1e-4) @ large, "c=f16,o=f32")((), jnp.ones((8, 16)))
    assert jnp.isfinite(out).all()


def test_what_the_walker_does_not_know_runs_as_written_and_is_named():
    x = normal(1, 8, 16)
    report = audit(lambda _, x: lax.linalg.qr(x)[0], (), x, policy="c=e5m3,o=f32")
    assert report.in_force == 1  # there is no matrix op
    assert any("qr" in note for note in report.notes)


def test_float64_is_rounded_once_onto_every_format():
    with jax.enable_x64(True):
        x, w = np.float64([[1.1, 2.3]]), np.float64([[1.3], [0.7]])
        for policy in ("c=e5m3,o=f32", "c=bf16,x=f32,o=f32"):
            wide = autocast(lambda w, x: x @ w, policy)(w, x)
            narrow = autocast(lambda w, x: x @ w, policy)(np.float32(w), np.float32(x))
            np.testing.assert_array_equal(wide, narrow)
        between = np.float64([1 + 2.0**-8 + 2.0**-40])
        out = autocast(lambda w, x: x, "bf16")((), between)
        np.testing.assert_array_equal(np.float64(out), 1.0078125)


def test_parameters_alone_are_computed_wide():
    decay = lambda p, x: x @ lax.scan(lambda c, _: (c * 1.001, None), p, None, length=20)[0]  # noqa: E731
    unrolled = lambda p, x: x @ (p * jnp.float32(1.001) ** 20)  # noqa: E731
    p, eye = (1 + jnp.arange(16) / 100).astype(jnp.bfloat16), jnp.eye(16)
    got = autocast(decay, "p=bf16,c=f32,o=f32")(p, eye)
    want = autocast(unrolled, "p=bf16,c=f32,o=f32")(p, eye)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    penalty = lambda p: 0.5 * jnp.sum(p**2)  # noqa: E731
    value = autocast(penalty, "f16")(jnp.full((64, 64), 10.0, jnp.float16))
    assert float(value) == 204_800


def test_nnx_modules_are_carried_as_arguments():
    model = nnx.LayerNorm(32, rngs=nnx.Rngs(0))
    x = round_to(10 + 0.1 * normal(0, 64, 32), "bf16")
    got = autocast(lambda m, x: m(x), "c=bf16,o=f32")(model, x)
    np.testing.assert_allclose(got, model(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("excess", [True, False])
@pytest.mark.parametrize("policy", ["p=f32,c=bf16,o=f32", "p=f32,c=f16,o=f32"])
def test_results_carries_and_outputs_are_rounded_whatever_xla_may_keep(policy, excess):
    w, x, y = normal(0, 64, 64) / 8, normal(1, 64, 64), normal(2, 64, 64)

    def fn(w, x, y):
        last, states = lax.scan(lambda h, y: (jnp.tanh(h @ w + y), h * y), x, y[:3])
        return last, states, x @ w, (x @ w) * y, x * y + x

    run = jax.jit(autocast(fn, policy), compiler_options={"xla_allow_excess_precision": excess})
    fmt = policy.split("=")[2].split(",")[0]
    for out in run(w, x, y):
        assert out.dtype == jnp.float32
        np.testing.assert_array_equal(out, round_to(out, fmt))
    # What is compared is rounded at all: the same in float32 lies off the grid.
    assert (jnp.tanh(x @ w) != round_to(jnp.tanh(x @ w), fmt)).any()
