"""What goes wrong in other libraries when they train in few bits, and goes right here.

Each test names the library. Where it is installed with the tests, it is shown to be wrong; a
library that has mended its bug will be noticed.
"""

import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.training.dynamic_scale import DynamicScale

import precis
from precis.formats import quantize_dequantize
from precis.optim import (
    adjust,
    clip_by_norm,
    dynamic_loss_scale,
    loss_scale_like,
    loss_scaled,
    quantized_state,
    scale_loss,
    state_of,
    static_loss_scale,
)


def scales_over(adjust_once, scale, steps):
    """The scales after each of `steps`, compiled; `adjust_once(scale, finite) -> scale`."""
    step, seen = jax.jit(adjust_once), []
    for finite in steps:
        scale = step(scale, jnp.bool_(finite))
        seen.append(float(getattr(scale, "value", getattr(scale, "loss_scale", None))))
    return seen


def run(optimizer, params, grads):
    """Parameters after each of `grads`, and the state after the last."""
    state, seen = optimizer.init(params), []

    @jax.jit
    def step(params, state, grad):
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    for grad in grads:
        params, state = step(params, state, jnp.float32(grad))
        seen.append(params)
    return jnp.stack(seen), state


def test_jmp_loses_its_smallest_scale_over_jit():
    bad = [False] * 4
    theirs = jmp.DynamicLossScale(jnp.float32(8.0), min_loss_scale=jnp.float32(4.0))
    assert scales_over(lambda s, finite: s.adjust(finite), theirs, bad) == [4.0, 2.0, 1.0, 1.0]
    assert scales_over(adjust, dynamic_loss_scale(8.0, min=4.0), bad) == [4.0] * 4


def test_jmp_cannot_adjust_a_float16_scale():
    with pytest.raises(TypeError, match="same dtypes"):
        jmp.DynamicLossScale(jnp.float16(2.0**15)).adjust(jnp.bool_(True))
    ours = dynamic_loss_scale(jnp.float16(2.0**15), growth_interval=1)
    assert scales_over(adjust, ours, [True, False]) == [2.0**16, 2.0**15]


def test_flax_grows_a_step_late():
    interval, slope = 3, jnp.float32(1.0)

    @jax.jit
    def adjust_flax(scale):
        return scale.value_and_grad(lambda p: p * slope)(jnp.float32(1.0))[0]

    theirs, seen = DynamicScale(growth_interval=interval, scale=8.0), []
    for _ in range(2 * interval):
        theirs = adjust_flax(theirs)
        seen.append(float(theirs.scale))
    assert seen.index(16.0) == interval
    ours = dynamic_loss_scale(8.0, growth_interval=interval)
    assert scales_over(adjust, ours, [True] * 6) == [8, 8, 16, 16, 16, 32]


def test_flax_multiplies_a_float16_loss_in_float16():
    # 4 · 2^15 is Inf there; and its first scale, 2^16, is Inf by itself.
    def loss(p):
        return jnp.float16(3.0) + p.astype(jnp.float16)

    param = jnp.float32(1.0)
    assert np.isinf(DynamicScale(scale=2.0**15).value_and_grad(loss)(param).aux)
    assert not bool(DynamicScale().value_and_grad(loss)(param).finite)
    factor = dynamic_loss_scale().value
    value, grad = jax.value_and_grad(lambda p: scale_loss(loss(p), factor))(param)
    assert (value.dtype, float(value), float(grad)) == (jnp.float32, 2.0**17, 2.0**15)
    value, grad = precis.value_and_grad(loss, "f16")(param.astype(jnp.float16), scale=factor)
    assert (value.dtype, float(value), float(grad)) == (jnp.float32, 4.0, 2.0**15)


def test_keras_sticks_at_inf_and_at_zero():
    # Doubled or halved for ever; from neither end is there a way back.
    ours = loss_scale_like("keras")._replace(growth_interval=jnp.int32(1))
    up = scales_over(adjust, ours, [True] * 300 + [False] * 2)
    down = scales_over(adjust, ours, [False] * 300 + [True] * 2)
    assert np.isfinite(up).all()
    assert min(down) > 0
    assert up[-3:] == [2.0**126, 2.0**125, 2.0**124]
    assert down[-3:] == [2.0**-126, 2.0**-125, 2.0**-124]
    assert np.isfinite(1 / np.float32([*up, *down])).all()


def test_mpx_unscales_by_the_scale_of_the_next_step():
    # With a scale that moves in every step, each gradient would be half or twice what it is.
    def loss(params, batch):
        return jnp.sum(params * batch)

    moving = dynamic_loss_scale(8.0, growth_interval=1)
    after = []
    for scale in (moving, static_loss_scale(1.0)):
        step = precis.make_step(loss, optax.sgd(0.25), "f32", loss_scale=scale)
        state, norms = step.init(jnp.ones(3)), []
        for _ in range(4):
            state, metrics = step(state, jnp.float32([1.0, 2.0, 2.0]))
            norms.append(float(metrics["grad_norm"]))
        assert norms == [3.0] * 4
        after.append(state.params)
    np.testing.assert_array_equal(*after)
    np.testing.assert_array_equal(after[0], [0.0, -1.0, -1.0])


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(4)(x))
        return nn.Dense(1)(x)


def test_flax_example_keeps_the_statistics_of_a_skipped_step():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), jnp.float32)
    params, state, model = precis.bind(Normed(), x, key=jax.random.key(0), train="train")

    def loss(params, state, batch, *, key, train):
        out, state = model(params, state, batch, key=key, train=train)
        return jnp.mean(out**2), (state, {})

    step = precis.make_step(loss, optax.adam(1e-2), "mixed_f16", has_state=True)
    before, _ = step(step.init(params, state), x)
    bad = x.at[0, 0].set(jnp.inf)
    after, metrics = step(before, bad)
    # What the batch leaves in the statistics if nobody puts them back.
    _, poisoned = model(before.params, before.state, bad, train=True)
    assert not all(np.isfinite(s).all() for s in jax.tree.leaves(poisoned))
    assert int(metrics["skipped"]) == 1
    for new, old in zip(jax.tree.leaves(after.state), jax.tree.leaves(before.state), strict=True):
        assert np.asarray(new).tobytes() == np.asarray(old).tobytes()
    last, metrics = step(after, x)
    assert metrics["finite"]
    assert all(np.isfinite(s).all() for s in jax.tree.leaves(last.state))


def test_optax_apply_if_finite_applies_the_nan_in_the_end():
    grads = [1.0] + [np.nan] * 5 + [1.0]
    theirs, _ = run(optax.apply_if_finite(optax.sgd(1.0), 3), jnp.float32(0.0), grads)
    assert np.isfinite(theirs[:4]).all()
    assert np.isnan(theirs[4:]).all()
    ours, state = run(loss_scaled(optax.sgd(1.0), static_loss_scale(1.0)), jnp.float32(0.0), grads)
    assert ours.tolist() == [-1.0] * 6 + [-2.0]
    assert (int(state_of(state).applied), int(state_of(state).skipped)) == (2, 5)


def test_optax_clips_float16_gradients_to_zero():
    grads = jnp.full(65536, 1000.0, jnp.float16)  # of norm 256,000, which is Inf in float16
    theirs, _ = optax.clip_by_global_norm(1.0).update(grads, optax.EmptyState())
    assert not theirs.any()
    for optimizer in (
        clip_by_norm(1.0),
        loss_scaled(optax.identity(), static_loss_scale(1.0), clip=1.0),
    ):
        ours, _ = jax.jit(optimizer.update)(grads, optimizer.init(grads))
        np.testing.assert_array_equal(ours, np.float32(1 / 256))


def test_second_moments_in_linear_int8_explode():
    # What a block's largest entry leaves of others, ten times smaller: nothing, of their squares.
    grads = jnp.full(256, 0.1).at[0].set(2.0)
    linear = quantize_dequantize(grads**2, "int8@block256")
    assert not linear[1:].any()
    with pytest.raises(ValueError, match=r"v=int8@block256: .* explode; choose dynamic8@block256"):
        quantized_state(optax.adam(1e-3), v="int8")
    kept = quantize_dequantize(grads**2, "udynamic8@block256")
    np.testing.assert_allclose(kept, grads**2, rtol=0.05)


def test_torch_asks_the_host_in_every_step_and_hides_what_it_skipped():
    # GradScaler.step reads a number on the host to decide; its count of skipped steps is a guess
    # from the scale's. Here a step is a pure function, whose decision stays on the device.
    step = precis.make_step(lambda p, x: jnp.sum(p * x), optax.sgd(1.0), "mixed_f16", jit=False)
    state = step.init(jnp.ones(3))
    assert not jax.make_jaxpr(step.update)(state, jnp.ones(3), None).effects
    update = jax.jit(step.update).lower(state, jnp.ones(3), None).compile()
    words = ("callback", "infeed", "outfeed", " send(", " recv(")
    assert not any(word in update.as_text() for word in words)
    for x in [1.0, np.inf, np.nan, 1.0]:
        state, metrics = update(state, jnp.full(3, x, jnp.float32), None)
    assert int(metrics["skipped"]) == 2
