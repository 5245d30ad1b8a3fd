"""Loss-scaled optimizers: skips that leave no trace, the peers' bugs, every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from precis.optim import (
    LossScale,
    dynamic_loss_scale,
    keep_if_skipped,
    loss_scaled,
    scale_of,
    state_of,
    static_loss_scale,
)


def bits(tree):
    """Every leaf as its bytes, so that -0.0 is not 0.0 and NaN equals itself."""
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def params_of(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.standard_normal((4, 3)), dtype).at[0, 0].set(-0.0)
    return {"kernel": kernel, "bias": jnp.asarray([0.0, -0.0, 1.0], dtype)}


def grads_like(params, seed, scale):
    """Random gradients of the params' dtypes, multiplied by `scale`."""
    rng = np.random.default_rng(seed)
    draw = lambda p: jnp.asarray(rng.standard_normal(p.shape), jnp.float32) * scale  # noqa: E731
    return jax.tree.map(lambda p: draw(p).astype(p.dtype), params)


def step_with(optimizer):
    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


INNERS = {
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "sgd": optax.sgd(1e-2),
    "chain": optax.chain(optax.clip(0.5), optax.scale_by_lion(), optax.scale(-1e-2)),
}


@pytest.mark.parametrize("inner", INNERS.values(), ids=INNERS)
def test_finite_steps_are_the_inner_optimizers(inner):
    # A power of two scales and unscales exactly, so that nothing but `inner` decides. Eager,
    # because a compiler may fuse the unscaling into a multiply-add and round once less.
    params = params_of()
    optimizer = loss_scaled(inner, dynamic_loss_scale(growth_interval=3))
    state, plain = optimizer.init(params), inner.init(params)
    for seed in range(7):
        scaled, grads = grads_like(params, seed, scale_of(state)), grads_like(params, seed, 1.0)
        compiled, _ = jax.jit(optimizer.update)(scaled, state, params)
        with jax.disable_jit():
            ours, state = optimizer.update(scaled, state, params)
            theirs, plain = inner.update(grads, plain, params)
        assert bits(ours) == bits(theirs)
        assert bits(state.inner) == bits(plain)
        # Adam's 1 - 0.999^t magnifies a last bit by up to 1000, of which the root takes half.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=6e-5), compiled, ours)
        params = optax.apply_updates(params, ours)
    assert (int(state.applied), int(state.skipped)) == (7, 0)


@pytest.mark.parametrize(
    ("bad", "dtype", "inner"),
    [(np.nan, "float32", "adamw"), (np.inf, "float16", "chain"), (-np.inf, "bfloat16", "momentum")],
)
def test_a_skipped_step_leaves_every_bit(bad, dtype, inner):
    params = params_of(dtype)
    optimizer = loss_scaled(INNERS[inner], dynamic_loss_scale(256.0), clip=1.0)
    step = step_with(optimizer)
    # At first a good step, so that the inner state is not all zeros.
    params, state = step(params, optimizer.init(params), grads_like(params, 1, 256.0))
    params["kernel"] = params["kernel"].at[0, 0].set(-0.0)
    grads = grads_like(params, 2, 256.0)
    grads["bias"] = grads["bias"].at[1].set(bad)

    updates, skipped = jax.jit(optimizer.update)(grads, state, params)
    assert all(np.signbit(u).all() and (u == 0).all() for u in jax.tree.leaves(updates))
    assert bits(optax.apply_updates(params, updates)) == bits(params)
    assert bits(skipped.inner) == bits(state.inner)
    assert (int(skipped.applied), int(skipped.skipped)) == (1, 1)
    assert not bool(skipped.last_finite)
    assert not np.isfinite(skipped.grad_norm)
    assert float(scale_of(skipped)) == 128.0


def test_a_nan_is_never_applied_however_many_come():
    params = params_of()
    optimizer = loss_scaled(optax.adam(1e-2), dynamic_loss_scale())
    state = optimizer.init(params)
    grads = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)

    @jax.jit
    def run(params, state):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), state.stuck

        return jax.lax.scan(step, (params, state), None, length=200)

    (after, state), stuck = run(params, state)
    assert bits(after) == bits(params)
    assert (int(state.skipped), int(state.consecutive_skips), int(state.applied)) == (200, 200, 0)
    assert float(scale_of(state)) == 2.0**-14
    # From 2^15, 29 halvings reach 2^-14; the 30th skip in a row lowers nothing any more.
    assert stuck.tolist() == [False] * 29 + [True] * 171


def test_one_good_step_clears_the_flag():
    optimizer = loss_scaled(optax.sgd(1.0), static_loss_scale(4.0))
    state, flags = optimizer.init(jnp.float32(0.0)), []
    for grad in [jnp.nan, 1.0, jnp.nan, jnp.nan, jnp.nan, 1.0]:
        _, state = optimizer.update(jnp.float32(grad), state)
        flags.append((bool(state.stuck), int(state.consecutive_skips)))
    assert flags == [(False, 1), (False, 0), (False, 1), (True, 2), (True, 3), (False, 0)]


def test_unscaled_by_the_scale_that_scaled_the_loss():
    # At interval 1 the scale doubles with every step; unscaling by the new one would halve.
    optimizer = loss_scaled(optax.sgd(1.0), dynamic_loss_scale(8.0, growth_interval=1))
    state = optimizer.init(jnp.float32(0.0))
    for step in range(5):
        scale = scale_of(state)
        assert float(scale) == 8.0 * 2**step
        update, state = optimizer.update(jnp.float32(3.0) * scale, state)
        assert float(update) == -3.0
        assert float(state.grad_norm) == 3.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_gradients_are_unscaled_in_float32(dtype):
    # 2^-14 over 2^15 is 0 in float16.
    optimizer = loss_scaled(optax.sgd(1.0), static_loss_scale(2.0**15))
    params = jnp.zeros(2, dtype)
    update, _ = optimizer.update(jnp.full(2, 2.0**-14, dtype), optimizer.init(params), params)
    assert update.dtype == jnp.float32
    assert update.tolist() == [-(2.0**-29)] * 2


@pytest.mark.parametrize("transform", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_other_scales_than_powers_of_two_unscale_by_the_reciprocal(transform):
    grads = np.float32([1.0, 7.0, 1e-3])
    optimizer = loss_scaled(optax.sgd(1.0), static_loss_scale(3.0))
    update, _ = transform(optimizer.update)(jnp.asarray(grads), optimizer.init(jnp.zeros(3)))
    np.testing.assert_array_equal(-update, grads * (np.float32(1.0) / np.float32(3.0)))


def test_finite_gradients_whose_squares_overflow_are_applied():
    optimizer = loss_scaled(optax.sgd(1.0), static_loss_scale(1.0))
    update, state = jax.jit(optimizer.update)(jnp.float32([1e20]), optimizer.init(jnp.zeros(1)))
    assert update.tolist() == [-float(np.float32(1e20))]
    assert (int(state.applied), int(state.skipped)) == (1, 0)
    np.testing.assert_allclose(state.grad_norm, 1e20, rtol=2.0**-22)


def test_clipping_works_on_unscaled_gradients():
    optimizer = loss_scaled(optax.sgd(1.0), static_loss_scale(2.0**10), clip=1.0)
    state = optimizer.init(jnp.zeros(2))
    update, state = optimizer.update(jnp.float32([3.0, 4.0]) * 2.0**10, state)
    np.testing.assert_array_equal(-update, np.float32([0.6, 0.8]))
    assert float(state.grad_norm) == 5.0
    update, state = optimizer.update(jnp.float32([0.3, 0.4]) * 2.0**10, state)
    np.testing.assert_array_equal(-update, np.float32([0.3, 0.4]))


def test_clipping_float16_gradients_does_not_zero_them():
    optimizer = loss_scaled(optax.sgd(1.0), static_loss_scale(1.0), clip=1.0)
    grads = jnp.full(65536, 1000.0, jnp.float16)
    update, _ = optimizer.update(grads, optimizer.init(grads))
    np.testing.assert_array_equal(-update, np.float32(1 / 256))


def test_model_state_of_a_skipped_step_is_put_back():
    optimizer = loss_scaled(optax.sgd(1.0), dynamic_loss_scale())
    state = optimizer.init(jnp.float32(0.0))
    old = {"mean": jnp.float32([-0.0, 1e-40]), "count": jnp.int32(3), "key": jax.random.key(1)}
    new = {"mean": jnp.full(2, jnp.nan), "count": jnp.int32(4), "key": jax.random.key(2)}
    unkeyed = lambda tree: tree | {"key": jax.random.key_data(tree["key"])}  # noqa: E731
    for grad, wanted in [(jnp.nan, old), (1.0, new)]:
        _, after = optimizer.update(jnp.float32(grad), state)
        kept = jax.jit(keep_if_skipped)(after, new, old)
        assert bits(unkeyed(kept)) == bits(unkeyed(wanted))
    assert bits(keep_if_skipped(state, new["mean"], old["mean"])) == bits(new["mean"])


def test_a_changed_dtype_is_refused_by_its_path():
    state = loss_scaled(optax.sgd(1.0), dynamic_loss_scale()).init(jnp.float32(0.0))
    old = {"norm": {"mean": jnp.zeros(2)}}
    new = {"norm": {"mean": jnp.zeros(2, jnp.bfloat16)}}
    with pytest.raises(TypeError, match="norm/mean was float32 and became bfloat16"):
        keep_if_skipped(state, new, old)


def test_accumulation_inside_survives_a_nan():
    # optax.MultiSteps alone is poisoned by one NaN, and freezes around apply_if_finite.
    inner = optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    optimizer = loss_scaled(inner, static_loss_scale(1.0))
    param, state = jnp.float32(0.0), optimizer.init(jnp.float32(0.0))
    update_of = jax.jit(optimizer.update)
    for grad in [1.0, jnp.nan, 3.0, 5.0, 7.0]:
        update, state = update_of(jnp.float32(grad), state, param)
        param = optax.apply_updates(param, update)
    assert float(param) == -(1.0 + 3.0) / 2 - (5.0 + 7.0) / 2


def test_extra_arguments_reach_the_inner_optimizer():
    inner = optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(patience=1, factor=0.5))
    optimizer = loss_scaled(inner, static_loss_scale(1.0))
    state = optimizer.init(jnp.float32(0.0))
    for _ in range(4):
        update, state = optimizer.update(jnp.float32(1.0), state, value=jnp.float32(1.0))
    assert abs(float(update)) < 1.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_parameters_have_float32_inner_state(dtype):
    params = params_of(dtype)
    state = loss_scaled(optax.adam(1e-2), dynamic_loss_scale()).init(params)
    assert {x.dtype.name for x in jax.tree.leaves(state.inner)} == {"float32", "int32"}


def test_under_vmap_each_decides_for_itself():
    optimizer = loss_scaled(optax.adam(0.1), dynamic_loss_scale())
    params = jnp.arange(6.0).reshape(3, 2)
    grads = jnp.ones((3, 2)).at[1, 0].set(jnp.nan)
    states = jax.vmap(optimizer.init)(params)
    updates, after = jax.jit(jax.vmap(optimizer.update))(grads, states, params)
    assert after.last_finite.tolist() == [True, False, True]
    assert after.scale.value.tolist() == [2.0**15, 2.0**14, 2.0**15]
    alone, _ = optimizer.update(grads[0], optimizer.init(params[0]), params[0])
    np.testing.assert_array_equal(updates[0], alone)
    assert bits(params[1] + updates[1]) == bits(params[1])
    assert bits(jax.tree.map(lambda x: x[1], (after.inner, states.inner))[0]) == bits(
        jax.tree.map(lambda x: x[1], states.inner)
    )


def test_replicas_agree():
    optimizer = loss_scaled(optax.sgd(1.0), dynamic_loss_scale(8.0), clip=1.0, axis_name="replicas")
    params = jnp.zeros((2, 2))
    grads = jnp.float32([[24.0, 32.0], [jnp.nan, 0.0]])
    states = jax.vmap(optimizer.init)(params)
    update = jax.jit(jax.vmap(optimizer.update, axis_name="replicas"))
    updates, after = update(grads, states, params)
    assert after.last_finite.tolist() == [False, False]
    assert not np.isfinite(after.grad_norm).any()
    assert (updates == 0).all()
    assert after.scale.value.tolist() == [4.0, 4.0]
    # And where all is well, they clip by one norm, 10.
    _, after = update(jnp.float32([[24.0, 32.0], [80.0, 0.0]]), states, params)
    assert after.grad_norm.tolist() == [10.0, 10.0]


def test_other_scales_compile_nothing():
    traces = []
    inner = optax.sgd(1.0)

    @jax.jit
    def step(state, grad):
        traces.append(1)
        return loss_scaled(inner, dynamic_loss_scale()).update(grad, state)

    for scale in [dynamic_loss_scale(), dynamic_loss_scale(3, growth_interval=1, max=9)]:
        state = loss_scaled(inner, scale).init(jnp.float32(0.0))
        for grad in [1.0, jnp.nan, 1.0]:
            _, state = step(state, jnp.float32(grad))
    assert traces == [1]
    # The schedule that ran is the state's: grown to 6, backed off to 3, grown to 6.
    assert float(scale_of(state)) == 6.0


def test_a_scale_made_by_hand_becomes_strongly_typed():
    scale = LossScale(8.0, 2.0, 0.5, 1, 1.0, 16.0, 0)
    state = loss_scaled(optax.sgd(1.0), scale).init(jnp.float32(0.0))
    assert not any(x.weak_type for x in state.scale)
    assert [x.dtype for x in state.scale] == [x.dtype for x in dynamic_loss_scale()]


def test_all_of_the_state_can_be_donated():
    scale = static_loss_scale(jnp.float32(8.0))
    optimizer = loss_scaled(optax.adam(0.1), scale)
    params = jnp.ones(3)
    update = jax.jit(optimizer.update, donate_argnums=1)
    for _ in range(2):
        state = optimizer.init(params)
        _, state = update(jnp.ones(3), state, params)
        _, state = update(jnp.ones(3), state, params)
    assert float(scale.value) == 8.0


def test_every_field_survives_orbax(tmp_path):
    params = params_of(jnp.bfloat16)
    scale = dynamic_loss_scale(3.0, growth_factor=1.5, growth_interval=9, min=0.5, max=77.0)
    optimizer = loss_scaled(optax.adam(1e-2), scale)
    state = optimizer.init(params)
    for factor in [1.0, jnp.nan, 2.0]:
        _, state = jax.jit(optimizer.update)(grads_like(params, 0, factor), state, params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        target = jax.tree.map(jnp.zeros_like, state)
        restored = checkpointer.restore(tmp_path / "state", target)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert bits(restored) == bits(state)
    assert not any(x.weak_type for x in jax.tree.leaves(restored))


def test_the_state_is_found_at_any_depth_and_only_once():
    scaled = loss_scaled(optax.sgd(1.0), static_loss_scale(16.0))
    chained = optax.chain(optax.identity(), optax.chain(scaled))
    assert float(scale_of(chained.init(jnp.zeros(2)))) == 16.0
    with pytest.raises(ValueError, match="got 0 of them"):
        scale_of(optax.adam(1.0).init(jnp.zeros(2)))
    with pytest.raises(ValueError, match="got 2 of them"):
        state_of(optax.chain(scaled, scaled).init(jnp.zeros(2)))


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="a LossScale is wanted"):
        loss_scaled(optax.sgd(1.0), 1024.0)
    with pytest.raises(ValueError, match=r"min=4.0 and max=2.0"):
        loss_scaled(optax.sgd(1.0), dynamic_loss_scale()._replace(min=4.0, max=2.0))
    with pytest.raises(ValueError, match="clip is a largest global norm"):
        loss_scaled(optax.sgd(1.0), dynamic_loss_scale(), clip=0.0)
