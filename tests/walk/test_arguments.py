"""Arguments as callers have them: sharded, donated, in few bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from precis.walk import autocast

W = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)


def loss(params, x):
    return jnp.mean(jax.nn.softmax(jnp.tanh(x @ params["w"])) ** 2)


def on_mesh(kind, spec):
    mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(kind, kind))
    place = lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec))  # noqa: E731
    return mesh, {"w": place(W, spec)}, place(X, P("data"))


@pytest.mark.world
def test_a_mesh_whose_axes_jax_decides():
    mesh, params, x = on_mesh(AxisType.Auto, P(None, "model"))
    gradient = jax.jit(jax.value_and_grad(autocast(loss, "mixed_bf16")))
    with mesh:
        got = gradient(params, x)
    want = gradient({"w": jnp.asarray(W)}, jnp.asarray(X))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.world
def test_explicit_axes_are_refused_by_name():
    mesh, params, x = on_mesh(AxisType.Explicit, P(None, "model"))
    set_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh
    with set_mesh(mesh), pytest.raises(NotImplementedError, match=r"argument 0/w .*AxisType\.Auto"):
        jax.jit(autocast(loss, "mixed_bf16"))(params, x)


@pytest.mark.world
def test_donated_buffers_are_given_up():
    def step(params, x):
        grads = jax.grad(autocast(loss, "int8"))(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    params, kept = {"w": jnp.asarray(W)}, {"w": jnp.asarray(W)}
    got = jax.jit(step, donate_argnums=0)(params, X)
    assert params["w"].is_deleted()
    np.testing.assert_array_equal(got["w"], jax.jit(step)(kept, X)["w"])
