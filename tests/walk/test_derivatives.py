"""Functions with a jvp rule of their own and a matrix op inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.walk import audit, autocast
from tests.draws import normal

from .laws import UNOPTIMIZED, assert_same, compiled


@jax.custom_jvp
def layer(w, x, n):
    """A layer with a straight-through rule, so that JAX's own would give other numbers."""
    y = x @ w
    return jnp.where(n > 0, jnp.round(y * 8) / 8, y), n


@layer.defjvp
def _(primals, tangents):
    (w, x, n), (dw, dx, dn) = primals, tangents
    y = x @ w
    slope = 1 - jnp.tanh(y) ** 2
    return layer(w, x, n), (slope * (dx @ w + x @ dw), dn)


W, X, N = normal(0, 8, 8) / 3, normal(1, 4, 8), jnp.int32(3)


def loss(w, x, n):
    y, n = layer(w, jnp.tanh(x), n)
    return (layer(w, y * y, n)[0] * y).sum() * n.astype(y.dtype)


def run(fn):
    return compiled(jax.value_and_grad(fn, (0, 1)), UNOPTIMIZED)(W, X, N)


@pytest.mark.world
@pytest.mark.parametrize("policy", ["c={},o=f32", "c={},g=e5m2,w={},o=f32"])
def test_emulated_formats_equal_native_ones_through_a_rule(policy):
    assert_same(*(run(autocast(loss, policy.format(c, c))) for c in ("bf16", "e8m7")))


def test_under_f32_the_rule_is_the_users_and_nothing_is_left_behind():
    want = run(loss)
    assert_same(run(autocast(loss, "f32")), want)
    low = run(autocast(loss, "mixed_bf16"))
    assert_same(run(loss), want)
    assert_same(run(autocast(loss, "mixed_bf16")), low)
    for a, b in zip(low[1], want[1], strict=True):
        assert 0 < jnp.linalg.norm(a - b) < 0.2 * jnp.linalg.norm(b)


def test_equals_hand_written_casts():
    low = jnp.bfloat16

    def dot(x, w):
        return lax.dot(x, w.astype(low), preferred_element_type=jnp.float32)

    def by_hand(w, x):
        x = x.astype(low)
        y = dot(x, w).astype(low)
        value = jnp.round((y.astype(jnp.float32) * 8).astype(low).astype(jnp.float32)) / 8
        # Of a cotangent of ones. The square is an island, which the product feeds unrounded.
        slope = (1 - jnp.square(jnp.tanh(dot(x, w)))).astype(low)
        back = lax.dot_general(
            x, slope, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        return value.astype(low), back

    fn = autocast(lambda w, x: layer(w, x, N)[0], "p=f32,c=bf16,o=bf16")

    def ours(w, x):
        out, pull = jax.vjp(lambda w: fn(w, x), w)
        return out, pull(jnp.ones_like(out))[0]

    assert_same(compiled(ours, UNOPTIMIZED)(W, X), compiled(by_hand, UNOPTIMIZED)(W, X))


def test_the_gradient_of_a_parameter_leaves_unrounded():
    x = jnp.full((4, 3), 1 + 2.0**-7, jnp.float32)

    @jax.custom_jvp
    def dense(w, x):
        return x @ w

    dense.defjvp(lambda p, t: (p[1] @ p[0], p[1] @ t[0] + t[1] @ p[0]))
    grad = jax.grad(autocast(lambda w, x: dense(w, x).sum(), "mixed_bf16"))(jnp.ones((3, 2)), x)
    np.testing.assert_array_equal(grad, 4 * (1 + 2.0**-7))


def test_forward_mode():
    fn = autocast(loss, "c=bf16,o=f32", forward_mode=True)
    out, dot = jax.jvp(lambda w: fn(w, X, N), (W,), (W,))
    want_out, want = jax.jvp(lambda w: loss(w, X, N), (W,), (W,))
    assert out == autocast(loss, "c=bf16,o=f32")(W, X, N)
    np.testing.assert_allclose([out, dot], [want_out, want], rtol=0.1)


def test_forward_mode_with_float64_parameters_under_a_narrower_policy():
    with jax.enable_x64(True):
        w, x = jnp.eye(4, dtype=jnp.float64), jnp.ones((2, 4))
        fn = autocast(lambda w, x: (x @ w).sum(), "c=bf16", forward_mode=True)
        out, dot = jax.jvp(lambda w: fn(w, x), (w,), (2 * w,))
        assert (float(out), float(dot)) == (8.0, 16.0)


@pytest.mark.nightly
def test_vmap_and_grad_of_grad():
    reverse = autocast(loss, "c=bf16,o=f32")
    each = jax.vmap(jax.grad(reverse), (None, 0, None))(W, X[:, None], N)
    np.testing.assert_allclose(each.sum(0), jax.grad(reverse)(W, X, N), rtol=0.1, atol=0.1)
    assert jnp.isfinite(jax.grad(lambda x: (jax.grad(reverse)(W, x, N) ** 2).sum())(X)).all()


def test_the_audit_enters_it():
    report = audit(loss, W, X, N, policy="mixed_bf16")
    assert report.in_force == 1
    assert report.flops == 2 * 2 * 4 * 8 * 8


def test_a_rule_without_a_matrix_op_is_one_op():
    assert autocast(lambda w, x: jax.nn.relu(x), "bf16")((), X).dtype == jnp.bfloat16
