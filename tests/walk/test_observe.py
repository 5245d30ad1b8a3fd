"""What is read at matrix ops: through jit, scan, remat and cond, by the parameter's own axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.walk import Layout, autocast, observed

LAYERS, WIDTH = 3, 4


def ending(op):
    """The operands themselves, and the result."""
    return op.lhs, op.rhs, op.out


def readings(fn, *args):
    out, found = jax.jit(observed(fn, "f32", ending))(*args)
    np.testing.assert_array_equal(out, jax.jit(autocast(fn, "f32"))(*args))
    return found


@pytest.fixture
def weights():
    keys = jax.random.split(jax.random.key(0), LAYERS)
    return jax.vmap(lambda key: jax.random.normal(key, (WIDTH, WIDTH)))(keys)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (2, WIDTH))


@pytest.mark.world
@pytest.mark.parametrize("remat", [False, True])
def test_a_scan_stacks_what_each_layer_meets(weights, x, remat):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    def fn(weights, x):
        return lax.scan(jax.checkpoint(layer) if remat else layer, x, weights)[0]

    (found,) = readings(fn, weights, x)
    inputs, kernels, _ = found.seen
    wanted = []
    for w in weights:
        wanted.append(x)
        x = autocast(lambda w, x: layer(x, w)[0], "f32")(w, x)
    np.testing.assert_allclose(inputs, jnp.stack(wanted), rtol=1e-6)
    np.testing.assert_array_equal(kernels, weights)
    assert found.layout == Layout((0,), (1, 2))


def test_loops_in_loops_and_what_each_iteration_shares(weights, x):
    def fn(params, x):
        def outer(x, stacked):
            def inner(x, w):
                return x @ w @ params["shared"], None

            return lax.scan(inner, x, stacked)[0], None

        return lax.scan(outer, x, params["stacked"])[0]

    params = {"stacked": jnp.stack([weights, weights]), "shared": jnp.eye(WIDTH)}
    own, shared = readings(fn, params, x)
    assert own.seen[0].shape == (2, LAYERS, 2, WIDTH)
    assert own.layout == Layout((0, 1), (2, 3))
    assert shared.layout == Layout((None, None), (0, 1))


def test_axes_are_followed_through_a_transpose_and_no_further(weights, x):
    def fn(params, x):
        return (x @ params["a"].T) @ (params["b"] * 2.0)

    a, b = readings(fn, {"a": weights[0], "b": weights[1]}, x)
    assert a.layout == Layout((), (1, 0))
    assert b.layout is None


def test_a_branch_not_taken_reads_zeros(weights, x):
    def fn(weights, x):
        branches = [lambda x, w=weights[i]: jnp.sin(x @ w) for i in range(2)]
        return lax.switch(jnp.argmax(x[0]) * 0, branches, x)

    taken, other = readings(fn, weights, x)
    np.testing.assert_array_equal(taken.seen[0], x)
    assert not other.seen[0].any()


def test_a_while_loop_is_computed_and_not_read(weights, x):
    def fn(weights, x):
        return lax.while_loop(lambda x: jnp.abs(x).max() < 50, lambda x: x @ weights[0] + 1, x)

    assert readings(fn, weights, x) == ()
