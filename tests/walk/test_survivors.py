"""What a policy must not disturb: effects, names, donated buffers, named axes, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from precis.walk import autocast
from tests.draws import normal

from .laws import UNOPTIMIZED, assert_same, compiled
from .models import mlp, mlp_init

W, X = normal(0, 8, 8) / 3, normal(1, 4, 8)


@pytest.mark.world
def test_vmap_with_a_named_axis():
    def fn(w, x):
        y = x @ w
        total, largest = lax.psum((y, x), "i"), lax.pmax(lax.stop_gradient(y), "i")
        shifted = lax.ppermute(y, "i", [(k, (k + 1) % 4) for k in range(4)])
        rows = lax.all_gather(y, "i").sum(0) + lax.axis_index("i").astype(y.dtype)
        return jnp.tanh(total[0] - largest) * shifted + rows + total[1] + lax.pmean(y, "i")

    def run(policy):
        mapped = jax.vmap(autocast(fn, policy) if policy else fn, (None, 0), axis_name="i")
        total = lambda w, x: (mapped(w, x).astype(jnp.float32) ** 2).mean()  # noqa: E731
        return compiled(jax.value_and_grad(total, (0, 1)), UNOPTIMIZED)(W, X)

    low = run("c=bf16,o=f32")
    assert_same(run("c=e8m7,o=f32"), low)
    assert_same(run("f32")[0], run(None)[0])
    assert low[0] != run(None)[0]


def test_a_sum_over_a_named_axis_is_sensitive():
    fn = autocast(lambda w, x: lax.psum(x, "i"), "bf16")
    got = jax.vmap(lambda x: fn((), x), axis_name="i")(jnp.ones(1000))
    np.testing.assert_array_equal(got, 1000.0)


def test_debug_effects_keep_their_count_and_order():
    seen = []

    def fn(w, x):
        note = lambda label, v: jax.debug.callback(  # noqa: E731
            lambda v: seen.append((label, float(v))), v, ordered=True
        )
        note("start", x.sum())
        y, _ = lax.scan(lambda h, k: (jnp.tanh(h @ w), note("scan", k)), x, jnp.arange(2.0))
        y = lax.cond(y.sum() > 99, lambda y: y, lambda y: (note("cond", 1.0), y * 2)[1], y)
        n = lax.while_loop(lambda n: n < 3, lambda n: (note("while", n), n + 1)[1], 1)
        note("end", n)
        return y

    jax.jit(fn)(W, X)
    jax.effects_barrier()
    want, seen[:] = [*seen], []
    jax.jit(autocast(fn, "mixed_bf16"))(W, X)
    jax.effects_barrier()
    assert [label for label, _ in seen] == [label for label, _ in want]
    assert seen[1:] == want[1:]
    assert len(want) == 7


def test_debug_print(capfd):
    jax.jit(autocast(lambda w, x: (jax.debug.print("max {}", x.max()), x @ w)[1], "bf16"))(W, X)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("max ") == 1


def test_named_residuals_are_the_ones_that_are_saved():
    def fn(w, x):
        policy = jax.checkpoint_policies.save_only_these_names("kept")
        body = lambda x: jnp.tanh(jnp.sin(checkpoint_name(jnp.sin(x @ w), "kept")) @ w)  # noqa: E731
        return jax.checkpoint(body, policy=policy)(x).sum()

    def sines(fn):
        return str(jax.make_jaxpr(jax.grad(fn))(W, X)).count("= sin ")

    assert sines(autocast(fn, "f32")) == sines(fn)
    text = str(jax.make_jaxpr(jax.grad(autocast(fn, "mixed_bf16")))(W, X))
    assert "name=kept" in text


@pytest.mark.parametrize("where", ["outside", "inside"])
@pytest.mark.filterwarnings("ignore:Some donated buffers")
def test_donated_buffers(where):
    step = lambda w, x: w - 0.1 * (x.T @ jnp.tanh(x @ w))  # noqa: E731
    want = compiled(autocast(step, "c=bf16,o=f32"))(W, X)
    if where == "outside":
        got = jax.jit(autocast(step, "c=bf16,o=f32"), donate_argnums=0)
    else:
        got = jax.jit(autocast(jax.jit(step, donate_argnums=0), "c=bf16,o=f32"))
    w = jnp.array(W)
    np.testing.assert_allclose(got(w, X), want, rtol=0, atol=2.0**-6)
    assert w.is_deleted() == (where == "outside")


def test_random_numbers_are_the_same_bits():
    def fn(w, x, key):
        first, second = jax.random.split(key)
        mask = jax.random.bernoulli(first, 0.5, x.shape)
        return jnp.where(mask, x @ w, 0), mask, jax.random.normal(second, (3,)), second

    key = jax.random.key(7)
    got, want = autocast(fn, "bf16")(W, X, key), fn(W, X, key)
    assert_same(got[1:3], want[1:3])
    assert_same(jax.random.key_data(got[3]), jax.random.key_data(want[3]))
    np.testing.assert_array_equal(got[0] == 0, want[0] == 0)


def test_a_function_that_is_differentiated_already():
    params, x = mlp_init(jax.random.key(0)), normal(2, 4, 24)
    grad = jax.grad(lambda p, x: (mlp(p, x) ** 2).mean())
    low = compiled(autocast(grad, "c=bf16,o=f32"), UNOPTIMIZED)(params, x)
    assert_same(compiled(autocast(grad, "c=e8m7,o=f32"), UNOPTIMIZED)(params, x), low)
    assert_same(
        compiled(autocast(grad, "f32"), UNOPTIMIZED)(params, x),
        compiled(grad, UNOPTIMIZED)(params, x),
    )


def test_what_cannot_be_entered_is_named_with_a_way_out():
    def fn(w, x):
        return lax.custom_linear_solve(lambda y: 2 * y, x @ w, lambda _, b: b / 2, symmetric=True)

    match = "reaches 'custom_linear_solve'.*jax.custom_vjp around that part runs as written"
    with pytest.raises(NotImplementedError, match=match):
        autocast(fn, "bf16")(W, X)
