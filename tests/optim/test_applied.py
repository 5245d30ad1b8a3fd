"""One step that applies where it updates, against optax's two calls."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.optim import (
    InPlace,
    add_updates,
    apply_update,
    dynamic_loss_scale,
    loss_scaled,
    scale_of,
    state_of,
)

INNERS = {
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "lion": optax.lion(1e-3),
    "sgd": optax.sgd(0.1, momentum=0.9),
}


def example(dtype="float32"):
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"w": jax.random.normal(keys[0], (33, 7), dtype), "b": jnp.zeros(7, dtype)}
    grads = jax.tree.map(lambda p: jax.random.normal(keys[1], p.shape, p.dtype), params)
    return params, grads


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


NIGHTLY = pytest.mark.nightly


@pytest.mark.parametrize(
    ("name", "scaled"),
    [
        ("adam", True),
        *((name, False) for name in INNERS),
        *(pytest.param(name, True, marks=NIGHTLY) for name in INNERS if name != "adam"),
    ],
)
def test_one_step_is_the_two_calls(name, scaled):
    params, grads = example()
    optimizer = INNERS[name]
    if scaled:
        optimizer = loss_scaled(optimizer, dynamic_loss_scale(), clip=1.0)
    state = optimizer.init(params)
    applied, updated = params, params
    states = [state, state]
    for _ in range(3):
        applied, states[0], _ = apply_update(optimizer, grads, states[0], applied)
        updates, states[1] = optimizer.update(grads, states[1], updated)
        updated = optax.apply_updates(updated, updates)
    assert_same(states[0], states[1])
    if scaled:
        # Within the cond, the last product of an update and its sum are one rounding instead of
        # two: each of three steps is off by half an ulp of its update at most, all below 1.
        for a, b in zip(jax.tree.leaves(applied), jax.tree.leaves(updated), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=3 * 2.0**-24)
    else:
        assert_same(applied, updated)


def test_narrow_parameters_are_decayed_in_float32():
    params, grads = example("bfloat16")
    grads = jax.tree.map(jnp.zeros_like, grads)
    optimizer = optax.adamw(1.0, weight_decay=0.3)
    state = optimizer.init(jax.tree.map(lambda p: p.astype(jnp.float32), params))
    applied = apply_update(optimizer, grads, state, params)
    want = (params["w"].astype(jnp.float32) - 0.3 * params["w"].astype(jnp.float32)).astype(
        jnp.bfloat16
    )
    np.testing.assert_array_equal(applied.params["w"], want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_skipped_step_returns_every_bit(dtype):
    bits = {"float32": np.uint32}.get(dtype, np.uint16)
    odd = np.asarray([-0.0, 1e-40, np.finfo(np.float32).tiny, 3.0], np.float32)
    params = {"w": jnp.asarray(odd, dtype)}
    optimizer = loss_scaled(optax.adamw(1.0, weight_decay=0.3), dynamic_loss_scale())
    state = optimizer.init(params)
    grads = {"w": jnp.asarray([1, 2, jnp.inf, 3], dtype)}
    step = jax.jit(lambda g, s, p: apply_update(optimizer, g, s, p))
    applied = step(grads, state, params)
    np.testing.assert_array_equal(
        np.asarray(applied.params["w"]).view(bits), np.asarray(params["w"]).view(bits)
    )
    assert int(state_of(applied.state).skipped) == 1
    assert float(scale_of(applied.state)) == 2.0**14


def count_changes(params, updates):
    new, _ = add_updates(params, updates)
    changed = jax.tree.map(lambda a, b: jnp.sum(a != b), params, new)
    return new, sum(jax.tree.leaves(changed))


@pytest.mark.parametrize(("grad", "changed"), [(1.0, 5), (jnp.nan, 0)])
def test_the_tally_is_of_applied_steps(grad, changed):
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    optimizer = loss_scaled(optax.sgd(0.1), dynamic_loss_scale())
    grads = jax.tree.map(lambda p: jnp.full_like(p, grad * 2.0**15), params)
    applied = apply_update(
        optimizer, grads, optimizer.init(params), params, how=InPlace(count_changes)
    )
    assert int(applied.tally) == changed


def test_no_copy_of_parameters_or_states_is_made():
    params = {"w": jnp.ones((1024, 1024))}
    optimizer = loss_scaled(optax.adam(1e-3), dynamic_loss_scale(), clip=1.0)
    state = optimizer.init(params)

    def step(params, state, grads):
        return apply_update(optimizer, grads, state, params)

    memory = (
        jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    ).memory_analysis()
    assert memory.temp_size_in_bytes < 0.01 * params["w"].nbytes
