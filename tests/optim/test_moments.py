"""Stored moments against optax at float32, and against ml_dtypes where they are narrower."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from precis.formats import parse
from precis.optim import dynamic_loss_scale, loss_scaled, stored_moments

OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "sgd": optax.sgd(1e-2),
    "lion": optax.lion(1e-2),
    "rmsprop": optax.rmsprop(1e-2, momentum=0.9),
    "scheduled": optax.adam(optax.cosine_decay_schedule(1e-2, 10)),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "masked": optax.masked(optax.adam(1e-2), {"a": True, "b": False}),
}


def bits(tree):
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def trained(optimizer, params, steps=10):
    """Parameters and state after steps on random gradients of the params' dtype."""
    state, rng = optimizer.init(params), np.random.default_rng(0)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params)
        params, state = step(params, state, grads)
    return params, state


def params_of(dtype=jnp.float32):
    return {"a": jnp.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3), "b": jnp.ones(3, dtype)}


@pytest.mark.parametrize("inner", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_at_float32_it_is_optax_bit_for_bit(inner):
    ours = trained(stored_moments(inner, "f32", parse("float32")), params_of())
    theirs = trained(inner, params_of())
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert bits(ours) == bits(theirs)


@pytest.mark.parametrize("m", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("v", ["f32", "bf16", "f16"])
def test_moments_have_their_formats_dtypes_from_first_to_last(m, v):
    optimizer = stored_moments(optax.adam(1e-2), m, v)
    first = {dtype: params_of(dtype) for dtype in ("float32", "bfloat16", "float16")}
    for steps in [0, 2]:
        params, state = jax.eval_shape(lambda p, n=steps: trained(optimizer, p, n), first)
        assert {x.dtype for x in jax.tree.leaves(state[0].mu)} == {parse(m).dtype}
        assert {x.dtype for x in jax.tree.leaves(state[0].nu)} == {parse(v).dtype}
        assert state[0].count.dtype == jnp.int32
        assert all(leaves["a"].dtype == dtype for dtype, leaves in params.items())


@pytest.mark.parametrize("name", ["momentum", "lion", "rmsprop", "injected", "masked"])
def test_the_fields_are_found_at_any_depth(name):
    _, state = trained(stored_moments(OPTIMIZERS[name], "bf16", "f16"), params_of(), 2)
    wide = [x for x in jax.tree.leaves(state) if x.dtype == jnp.float32 and x.size > 1]
    narrow = [x for x in jax.tree.leaves(state) if x.dtype in (jnp.bfloat16, jnp.float16)]
    assert wide == []
    assert narrow != []


def test_rmsprop_keeps_each_field_in_its_own_format():
    _, state = trained(stored_moments(OPTIMIZERS["rmsprop"], "bf16", "f16"), params_of(), 2)
    dtypes = sorted({x.dtype.name for x in jax.tree.leaves(state) if x.size > 1})
    assert dtypes == ["bfloat16", "float16"]


def test_momentum_is_computed_in_float32_and_rounded_once_a_step():
    # Two roundings a step and no more: ml_dtypes' casts, and float32 in between.
    decay, rng = np.float32(0.9), np.random.default_rng(3)
    optimizer = stored_moments(optax.trace(0.9), "bf16", "f32")
    stored = np.zeros(1000, ml_dtypes.bfloat16)
    state = optimizer.init(jnp.zeros(1000))
    for _ in range(5):
        grads = np.float32(rng.standard_normal(1000))
        update, state = optimizer.update(jnp.asarray(grads), state)
        wide = grads + decay * stored.astype(np.float32)
        stored = wide.astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(update, wide)
        np.testing.assert_array_equal(state.trace, stored)


def test_a_second_moment_in_bfloat16_stalls_where_float32_does_not():
    # 1e-3 of the way from 0 to 1 is lost once it is below half an ulp: what m and v cost.
    last = {}
    for v in ["f32", "bf16"]:
        optimizer = stored_moments(optax.scale_by_adam(), "f32", v)
        state = optimizer.init(jnp.float32(0.0))
        update = jax.jit(optimizer.update)
        for _ in range(2000):
            _, state = update(jnp.float32(1.0), state)
        last[v] = float(state.nu)
    np.testing.assert_allclose(last["f32"], 1 - 0.999**2000, rtol=1e-4)
    assert last["bf16"] < 0.6


def test_it_stands_inside_a_loss_scaled_optimizer():
    optimizer = loss_scaled(
        stored_moments(optax.adam(1e-2), "bf16", "bf16"), dynamic_loss_scale(1.0)
    )
    params = params_of(jnp.bfloat16)
    _, state = trained(optimizer, params, 3)
    bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    _, after = jax.jit(optimizer.update)(bad, state, params)
    assert bits(after.inner) == bits(state.inner)
    assert {x.dtype for x in jax.tree.leaves(after.inner[0].nu)} == {jnp.dtype(jnp.bfloat16)}


def test_formats_without_a_dtype_are_refused():
    with pytest.raises(ValueError, match=r"m=e5m3: m is stored as it is.* choose f32, bf16"):
        stored_moments(optax.adam(1.0), "e5m3", "f32")
    with pytest.raises(ValueError, match="v=tf32: v is stored as it is"):
        stored_moments(optax.adam(1.0), "f32", "tf32")
    with pytest.raises(ValueError, match="stored in few bits, it wants blocks"):
        stored_moments(optax.adam(1.0), "int8", "f32")


@pytest.mark.parametrize("m", ["f32", "int8@block256"])
def test_no_second_moment_in_float16_is_rounded_to_zero(m):
    # Squares of gradients below 1.7e-4 are none of float16's numbers. With v = 0, steps of Adam
    # would be m / eps: 10,000 learning rates and more.
    magnitudes = np.float32(10.0 ** np.random.default_rng(0).uniform(-7, 0, 4096))
    magnitudes[:100] = 0
    optimizer = stored_moments(optax.adam(1.0), m, "f16")
    update, rng = jax.jit(optimizer.update), np.random.default_rng(1)
    state = optimizer.init({"w": jnp.zeros(4096)})
    wanted = np.zeros(4096, np.float16)
    for _ in range(20):
        grads = np.float32(magnitudes * rng.standard_normal(4096))
        updates, state = update({"w": jnp.asarray(grads)}, state)
        wide = np.float32(0.999) * np.float32(wanted) + np.float32(0.001) * grads**2
        wanted = np.where(wide > 0, np.maximum(wide.astype(np.float16), np.float16(2.0**-24)), 0)
        (adam, *_) = state if m == "f32" else state.leaves["w"]
        got = np.ravel(adam.nu["w"] if m == "f32" else adam.nu)
        # One sum of products, contracted or not: another neighbor at most.
        np.testing.assert_array_max_ulp(got, wanted.astype(np.float16), maxulp=1)
        assert ((got > 0) == (wide > 0)).all()
        assert np.abs(updates["w"]).max() < 4
        wanted = got
