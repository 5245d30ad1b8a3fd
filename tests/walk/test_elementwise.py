"""Elementwise steps in few bits: what a region keeps, and that it changes no bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.walk import autocast
from tests.draws import normal

from .laws import EXACT, assert_same, compiled

ROWS, WIDTH = 8, 16
W, X = normal(0, WIDTH, WIDTH, scale=0.25), normal(1, ROWS, WIDTH)
BIAS = normal(2, WIDTH)


def branching(params, x):
    """Values with one use, two, three and four; a parameter that is broadcast; a mask."""
    w, b = params
    h = x @ w
    a = jnp.tanh(h + b) * h
    c = jnp.where(h > 0, a, 0.5 * h) + a * jnp.sin(h)
    return jnp.mean((c @ w - jnp.maximum(c, b)) ** 2)


def by_hand(dtype):
    """`branching` with each op in float32 and rounded once, differentiated by JAX alone."""
    wide, low = lambda x: x.astype(jnp.float32), lambda x: x.astype(dtype)
    op = lambda fn, *xs: low(fn(*map(wide, xs)))  # noqa: E731

    @jax.custom_vjp
    def dot(x, w):
        return lax.dot(wide(x), wide(low(w)))

    def backward(saved, g):
        x, w = saved
        # Products of 16-bit operands are exact in float32, and a cotangent is one of them.
        g = wide(low(g))
        return low(g @ wide(low(w)).T), wide(x).T @ g

    dot.defvjp(lambda x, w: (dot(x, w), (x, w)), backward)

    def loss(params, x):
        w, b = params
        bias = lambda: low(jnp.broadcast_to(b, (ROWS, WIDTH)))  # noqa: E731
        h = low(dot(low(x), w))
        a = op(jnp.multiply, op(jnp.tanh, op(jnp.add, h, bias())), h)
        half = op(lambda h: jnp.float32(0.5) * h, h)
        masked = jnp.where(wide(h) > 0, a, half)
        c = op(jnp.add, masked, op(jnp.multiply, a, op(jnp.sin, h)))
        last = dot(c, w)
        return jnp.mean((low(last) - jnp.maximum(c, bias())).astype(jnp.float32) ** 2)

    return loss


@pytest.mark.world
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_value_and_gradients_are_those_of_every_op_by_itself(dtype):
    text = f"c={jnp.dtype(dtype).name},o=f32"
    got = compiled(jax.value_and_grad(autocast(branching, text), (0, 1)))((W, BIAS), X)
    want = compiled(jax.value_and_grad(by_hand(dtype), (0, 1)))((W, BIAS), X)
    (value, ((dw, db), dx)), (value_by_hand, ((dw_by_hand, db_by_hand), dx_by_hand)) = got, want
    assert_same((value, db, dx), (value_by_hand, db_by_hand, dx_by_hand))
    # Two products of 8 terms each, summed in float32 in another order.
    bound = 2 * 8 * np.finfo(np.float32).eps * float(jnp.abs(dw_by_hand).max())
    np.testing.assert_allclose(dw, dw_by_hand, rtol=0, atol=bound)


@pytest.mark.world
@pytest.mark.parametrize("text", ["bf16", pytest.param("f16", marks=pytest.mark.nightly)])
def test_not_jitted_each_rounding_is_done(text):
    """Each stretch is then compiled by itself, by a compiler that may leave out roundings."""
    loss = autocast(lambda p, x: jax.nn.gelu(x * p + p).sum(), f"c={text},o=f32")
    of_x = jax.grad(loss, 1)
    squares = lambda p, x: (of_x(p, x) ** 2).sum()  # noqa: E731
    for fn in (jax.grad(loss, (0, 1)), jax.vmap(of_x), jax.grad(squares)):
        assert_same(fn(X[::-1], X), compiled(fn)(X[::-1], X))


@pytest.mark.world
@pytest.mark.parametrize("text", ["bf16", pytest.param("f16", marks=pytest.mark.nightly)])
def test_not_jitted_each_rounding_of_a_loop_is_done(text):
    """Its body is compiled by itself, too."""

    def loss(p, x):
        step = lambda h, _: (jax.nn.gelu(h * p + p) * h, None)  # noqa: E731
        return lax.scan(step, x, None, length=2)[0].sum()

    fn = jax.grad(autocast(loss, f"c={text},o=f32"), 1)
    assert_same(fn(X[::-1], X), compiled(fn)(X[::-1], X))


@pytest.mark.world
@pytest.mark.parametrize("options", [EXACT, {}], ids=["exact", "excess precision"])
def test_what_is_summed_was_rounded(options):
    """XLA's CPU sums what was there before the rounding if it sees both, and may or not."""
    x, y = (np.asarray(normal(seed, 256, 64)) for seed in (0, 1))
    value = autocast(lambda _, x, y: (x * y).sum(0), "mixed_bf16")
    gradient = jax.grad(autocast(lambda b, x, y: (x * b * y).sum(), "mixed_bf16"))
    low = lambda x: x.astype(jnp.bfloat16).astype(np.float32)  # noqa: E731
    terms = low(low(x) * low(y))
    bound = 256 * np.finfo(np.float32).eps * np.abs(terms).sum(0)
    for fn in (value, gradient):
        got = compiled(fn, options)(np.ones(64, np.float32), x, y)
        assert (np.abs(got - np.float64(terms).sum(0)) <= bound).all()


@pytest.mark.world
def test_a_cotangent_that_is_summed_was_rounded():
    """It comes out of an island, and nothing but the bias wants it."""
    x, y = (normal(seed, 64, 256) for seed in (0, 1))
    loss = lambda b: (jnp.exp(x + b) * y).sum()  # noqa: E731
    native, emulated = (
        compiled(jax.grad(autocast(loss, f"c={c},o=f32")))(jnp.ones(256)) for c in ("bf16", "e8m7")
    )
    assert_same(emulated, native)


def stacked(fn, *args):
    """Shapes and dtypes of what a scan hands to the scan of its gradient, arguments left out."""
    jaxpr = jax.make_jaxpr(jax.grad(fn))(*args)
    there, back = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")
    handed = [var for var in there.outvars if any(var is atom for atom in back.invars)]
    return sorted((var.aval.shape, str(var.aval.dtype)) for var in handed)


@pytest.mark.world
@pytest.mark.parametrize("name", ["tanh", "gelu", "silu", "sigmoid"])
@pytest.mark.parametrize(("text", "dtype"), [("bf16", "bfloat16"), ("e8m7", "float32")])
def test_a_layer_keeps_its_input_and_the_products_result(name, text, dtype):
    act = getattr(jax.nn, name)

    def loss(w, x):
        h, _ = lax.scan(lambda h, w: (h + act(h @ w), None), x, w)
        return jnp.mean(h**2)

    layers = jax.ShapeDtypeStruct((3, WIDTH, WIDTH), jnp.float32)
    kept = stacked(autocast(loss, f"c={text},o=f32"), layers, X)
    shape = (3, ROWS, WIDTH)
    # An emulated operand is kept as it was multiplied, in the narrowest dtype that holds it.
    assert kept == sorted([(shape, "bfloat16"), (shape, dtype)])


def test_rows_and_checkpoints():
    def all_ways(x):
        loss = lambda x: autocast(branching, "c=bf16,o=f32")((W, BIAS), x)  # noqa: E731
        rows = jax.vmap(jax.grad(loss))(x[:, None])[:, 0]
        return jax.grad(loss)(x), jax.grad(jax.checkpoint(loss))(x), rows

    whole, again, rows = compiled(all_ways)(X)
    np.testing.assert_array_equal(again, whole)
    # A row's own mean is over an eighth of the values.
    np.testing.assert_array_equal(rows / ROWS, whole)


def test_derivatives_of_derivatives():
    def second(loss):
        grad, v = jax.grad(lambda x: loss((W, BIAS), x)), jnp.ones_like(X)
        return jax.jvp(grad, (X,), (v,))[1], jax.grad(lambda x: jnp.vdot(grad(x), v))(X)

    got = compiled(lambda: second(autocast(branching, "c=bf16,o=f32")))()
    want = compiled(lambda: second(branching))()
    for ours, exact in zip(got, want, strict=True):
        # A cotangent is rounded some ten times on each of two ways back.
        assert jnp.linalg.norm(ours - exact) < 20 * 2.0**-8 * jnp.linalg.norm(exact)


def test_forward_mode_still_has_jaxs_own_rules():
    fn = autocast(branching, "c=bf16,o=f32", forward_mode=True)
    value, _ = jax.jvp(lambda x: fn((W, BIAS), x), (X,), (X,))
    np.testing.assert_array_equal(value, autocast(branching, "c=bf16,o=f32")((W, BIAS), X))


def test_what_was_not_differentiated_is_not():
    """A while loop has no reverse mode: it must see nothing of the gradient beside it."""

    def loss(w, x):
        scale = lax.stop_gradient(x) * 0.5
        steps = lax.while_loop(lambda s: s.sum() < 100.0, lambda s: s * 2, scale * scale + 1.0)
        return jnp.sum(jnp.tanh(x @ w) * scale * steps)

    grads = jax.grad(autocast(loss, "c=bf16,o=f32"), (0, 1))(W, X)
    assert all(jnp.isfinite(g).all() for g in grads)
