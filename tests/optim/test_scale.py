"""The schedule of a loss scale against a plain-Python one, and its types and errors."""

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.optim import (
    LossScale,
    adjust,
    dynamic_loss_scale,
    loss_scale_like,
    scale_loss,
    static_loss_scale,
)


def grad_scaler(steps, *, value, growth, backoff, interval, low=0.0, high=math.inf):
    """torch.amp.GradScaler's documented schedule in Python floats, with bounds."""
    values, good = [], 0
    for finite in steps:
        if finite:
            good += 1
            if good == interval:
                value, good = min(value * growth, high), 0
        else:
            value, good = max(value * backoff, low), 0
        values.append(value)
    return values


def recorded(scale, steps):
    """The values that `adjust` goes through over `steps`, compiled as one scan."""

    @jax.jit
    def run(scale, steps):
        def step(scale, finite):
            scale = adjust(scale, finite)
            return scale, scale.value

        return jax.lax.scan(step, scale, steps)[1]

    return np.asarray(run(scale, np.array(steps, bool))).tolist()


def draw(count, good, seed=0):
    rng = random.Random(seed)
    return [rng.random() < good for _ in range(count)]


def test_the_defaults():
    scale = dynamic_loss_scale()
    assert [float(x) for x in scale] == [32768, 2, 0.5, 2000, 2**-14, 2**24, 0]


@pytest.mark.parametrize("scale", [dynamic_loss_scale(), static_loss_scale(1024)])
def test_every_number_is_a_strongly_typed_scalar(scale):
    types = [(x.dtype.name, x.shape, x.weak_type) for x in scale]
    f32, i32 = ("float32", (), False), ("int32", (), False)
    assert types == [f32, f32, f32, i32, f32, f32, i32]


def test_a_weak_number_becomes_strong():
    assert not dynamic_loss_scale(jnp.asarray(4.0)).value.weak_type


@pytest.mark.parametrize("interval", [1, 2, 3, 7])
@pytest.mark.parametrize("good", [0.5, 0.9])
def test_the_schedule_is_grad_scalers(interval, good):
    steps = draw(300, good, seed=interval)
    scale = dynamic_loss_scale(growth_interval=interval)
    wanted = grad_scaler(
        steps, value=2.0**15, growth=2.0, backoff=0.5, interval=interval, low=2**-14, high=2.0**24
    )
    assert recorded(scale, steps) == wanted


def test_the_schedule_with_other_factors_and_no_bound_in_reach():
    steps = draw(60, 0.8)
    scale = dynamic_loss_scale(
        1.0, growth_factor=4.0, backoff_factor=0.25, growth_interval=3, min=2.0**-126, max=2.0**126
    )
    wanted = grad_scaler(steps, value=1.0, growth=4.0, backoff=0.25, interval=3)
    assert recorded(scale, steps) == wanted


def test_it_grows_after_exactly_the_interval():
    values = recorded(dynamic_loss_scale(1.0, growth_interval=4), [True] * 9)
    assert values == [1, 1, 1, 2, 2, 2, 2, 4, 4]


def test_a_bad_step_starts_the_count_anew():
    values = recorded(dynamic_loss_scale(8.0, growth_interval=3), [True, True, False] + [True] * 3)
    assert values == [8, 8, 4, 4, 4, 8]


def test_bounds_hold_under_jit_and_it_comes_back():
    scale = dynamic_loss_scale(4.0, growth_interval=1, min=1.0, max=8.0)
    values = recorded(scale, [False] * 5 + [True] * 6)
    assert values == [2, 1, 1, 1, 1, 2, 4, 8, 8, 8, 8]


@pytest.mark.parametrize(("finite", "last"), [(True, 2.0**126), (False, 2.0**-126)])
def test_the_widest_bounds_reach_neither_inf_nor_zero(finite, last):
    scale = dynamic_loss_scale(growth_interval=1, min=2.0**-126, max=2.0**126)
    assert recorded(scale, [finite] * 300)[-1] == last


def test_static_stays():
    assert set(recorded(static_loss_scale(768.0), draw(50, 0.5))) == {768.0}


def test_an_interval_that_was_shortened_in_between_is_still_met():
    scale = dynamic_loss_scale(1.0, growth_interval=2)._replace(good_steps=jnp.int32(7))
    assert float(adjust(scale, jnp.bool_(True)).value) == 2.0


def test_other_values_compile_nothing():
    traces = []

    @jax.jit
    def step(scale, finite):
        traces.append(1)
        return adjust(scale, finite)

    scale = step(step(dynamic_loss_scale(), True), False)
    step(dynamic_loss_scale(64, growth_factor=3, growth_interval=7, min=1, max=99), True)
    step(static_loss_scale(5.0), False)
    assert traces == [1]
    assert isinstance(scale, LossScale)


def test_it_can_be_made_under_vmap():
    scales = jax.vmap(dynamic_loss_scale)(jnp.array([1.0, 2.0]))
    after = jax.vmap(adjust)(scales._replace(good_steps=jnp.full(2, 1999)), jnp.array([True] * 2))
    assert after.value.tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"growth_factor": 0.5}, "growth_factor must be at least 1, got 0.5"),
        ({"growth_factor": math.nan}, "growth_factor"),
        ({"backoff_factor": 2.0}, "backoff_factor must be more than 0 and at most 1, got 2.0"),
        ({"backoff_factor": 0.0}, "backoff_factor"),
        ({"backoff_factor": -0.5}, "backoff_factor"),
        ({"growth_interval": 0}, "growth_interval must be a whole number of at least 1, got 0"),
        ({"growth_interval": 1.5}, "growth_interval"),
        ({"min": 4.0, "max": 2.0}, "min=4.0 and max=2.0"),
        ({"min": 0.0}, "between 2"),
        ({"max": math.inf}, "between 2"),
        ({"value": 2.0**30}, "value must lie between"),
        ({"value": math.nan}, "value must lie between"),
        ({"value": np.ones(3)}, "scalars, got shape"),
        ({"growth_factor": jnp.float32(0.5)}, "growth_factor"),
    ],
)
def test_bad_numbers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dynamic_loss_scale(**settings)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_bad_static_scales_are_refused(value):
    with pytest.raises(ValueError, match=r"loss scale|exceed"):
        static_loss_scale(value)


def test_settings_by_name():
    names = ["torch", "apex", "jmp", "flax", "keras"]
    assert [float(loss_scale_like(n).value) for n in names] == [2**16, 2**16, 2**15, 2**16, 2**15]
    assert all(int(loss_scale_like(n).growth_interval) == 2000 for n in names)
    assert float(loss_scale_like("apex").max) == 2**24
    assert float(loss_scale_like("jmp").min) == 1
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        loss_scale_like("pytorch")


def test_the_settings_of_installed_peers():
    jmp = pytest.importorskip("jmp")
    flax = pytest.importorskip("flax.training.dynamic_scale").DynamicScale()
    peer = jmp.DynamicLossScale(jnp.float32(2**15))
    ours = loss_scale_like("jmp")
    assert (peer.period, peer.factor) == (int(ours.growth_interval), float(ours.growth_factor))
    assert float(peer.min_loss_scale) == float(ours.min)
    ours = loss_scale_like("flax")
    wanted = (flax.scale, flax.growth_factor, flax.backoff_factor, flax.growth_interval)
    assert tuple(float(x) for x in ours[:4]) == tuple(float(x) for x in wanted)
    assert float(flax.minimum_scale) == float(ours.min)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_loss_is_scaled_in_float32(dtype):
    # 4 * 2^15 is Inf in float16.
    scaled = jax.jit(scale_loss)(jnp.asarray(4.0, dtype), jnp.float32(2**15))
    assert scaled.dtype == jnp.float32
    assert float(scaled) == 2**17
