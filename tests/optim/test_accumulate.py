"""One step from several micro-batches, against float32 sums and the bugs of optax.MultiSteps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.optim import (
    accumulate,
    apply_update,
    dynamic_loss_scale,
    keep_if_skipped,
    loss_scaled,
    master_weights,
    quantized_state,
    scale_of,
    state_of,
    static_loss_scale,
)

INNERS = {
    "adam": optax.adam(1e-2),
    "scaled": loss_scaled(optax.adam(1e-2), static_loss_scale(1.0)),
    "kahan": master_weights(optax.sgd(0.1, momentum=0.5), "bf16", "kahan"),
    "blocks": quantized_state(optax.adam(1e-2), min_size=64),
}


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def example(dtype="float32", count=8):
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
    shapes = {"w": (12, 8), "b": (3,)}
    params = {k: draw(s) for k, s in shapes.items()}
    params["b"] = params["b"].at[0].set(-0.0)
    return params, [{k: draw(s) for k, s in shapes.items()} for _ in range(count)]


def in_place(optimizer):
    return jax.jit(lambda g, s, p, weight=1.0: apply_update(optimizer, g, s, p, weight=weight)[:2])


def by_optax(optimizer):
    def step(grads, state, params, weight=1.0):
        updates, state = optimizer.update(grads, state, params, weight=weight)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


@pytest.mark.world
@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("blocks", in_place),
        ("scaled", by_optax),
        ("kahan", in_place),
        *(
            pytest.param(name, step, marks=pytest.mark.nightly)
            for name, step in [("adam", in_place), ("adam", by_optax), ("blocks", by_optax)]
        ),
    ],
)
def test_a_window_is_one_step_with_the_mean(name, step):
    dtype = "bfloat16" if name == "kahan" else "float32"
    params, grads = example(dtype)
    optimizer = accumulate(INNERS[name], 4)
    state, take = optimizer.init(params), step(optimizer)
    want, want_state, once = params, INNERS[name].init(params), step(INNERS[name])
    for i, g in enumerate(grads):
        before, inner = params, state.inner
        params, state = take(g, state, params)
        if (i + 1) % 4:
            assert bits((params, state.inner)) == bits((before, inner))
            continue
        window = [
            jax.tree.map(lambda x: np.asarray(x, np.float32), g) for g in grads[i - 3 : i + 1]
        ]
        mean = jax.tree.map(lambda a, b, c, d: jnp.asarray((a + b + c + d) / 4), *window)
        want, want_state = once(mean, want_state, want)
        # Two programs: a multiply-add may move the last bit of a moment.
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert (int(state.windows), int(state.lost), int(state.dropped)) == (2, 0, 0)


@pytest.mark.parametrize("step", [in_place, by_optax])
def test_the_mean_is_weighted_and_in_float32(step):
    params, grads = example("bfloat16", 4)
    weights = np.float32([30, 10, 0, 2])
    optimizer = accumulate(optax.trace(0.0), 4)  # shows what it was given
    state, take = optimizer.init(params), step(optimizer)
    for g, weight in zip(grads, weights, strict=True):
        _, state = take(g, state, params, weight)
    for name, shown in state.inner.trace.items():
        assert shown.dtype == jnp.float32
        wide = np.stack([np.asarray(g[name], np.float64) for g in grads])
        want = np.tensordot(weights.astype(np.float64), wide, 1) / 42
        # Three additions and a division in float32, each within 2^-24 of the terms' sum.
        bound = 4 * 2.0**-24 * np.tensordot(weights, np.abs(wide), 1) / 42
        assert (np.abs(np.asarray(shown) - want) <= bound).all()


def test_what_multi_steps_gets_wrong():
    # optax casts the mean of bfloat16 gradients back: 1 + 2^-9 has more bits than it keeps.
    grads = [jnp.bfloat16(1), jnp.bfloat16(1 + 2.0**-7), jnp.bfloat16(1), jnp.bfloat16(1)]
    ours, theirs = [], []
    for optimizer, seen in [
        (accumulate(optax.sgd(1.0), 4), ours),
        (optax.MultiSteps(optax.sgd(1.0), 4).gradient_transformation(), theirs),
    ]:
        param = jnp.bfloat16(0)
        state = optimizer.init(param)
        for g in grads:
            update, state = optimizer.update(g, state, param)
        seen.append(float(update))
    assert ours == [-(1 + 2.0**-9)]
    assert theirs == [-1.0]

    # And one NaN poisons its mean for good: it is applied, or nothing is any more.
    def end(optimizer):
        params = jnp.float32(0)
        state = optimizer.init(params)
        for g in [1.0, jnp.nan, 1.0, 1.0]:
            update, state = optimizer.update(jnp.float32(g), state, params)
            params = optax.apply_updates(params, update)
        return float(params)

    momentum = optax.sgd(1.0, momentum=0.5)
    assert np.isnan(end(optax.MultiSteps(momentum, 2).gradient_transformation()))
    careful = optax.MultiSteps(optax.apply_if_finite(momentum, 5), 2)
    assert end(careful.gradient_transformation()) == 0
    assert end(accumulate(momentum, 2)) == -1.0 - 1.5


@pytest.mark.parametrize(
    ("bad", "step"),
    [
        ("gradient", in_place),
        pytest.param("weight", by_optax, marks=pytest.mark.nightly),
        pytest.param("negative weight", in_place, marks=pytest.mark.nightly),
    ],
)
def test_a_micro_batch_or_its_window_is_dropped(bad, step):
    params, grads = example(count=8)
    weight = {"gradient": 1.0, "weight": jnp.inf, "negative weight": -1.0}[bad]
    if bad == "gradient":
        grads[1] = {**grads[1], "b": grads[1]["b"].at[2].set(jnp.nan)}
    ends = {}
    for on_nan in ("drop", "window"):
        optimizer = accumulate(optax.adam(1e-2), 4, on_nan=on_nan)
        state, take, after = optimizer.init(params), step(optimizer), params
        for i, g in enumerate(grads):
            after, state = take(g, state, after, weight if i == 1 else 1.0)
            assert bool(state.last_finite) == (i != 1)
            if i == 3:
                ends[on_nan] = (after, state)
        assert int(state.dropped) == 1
        assert (int(state.windows), int(state.lost)) == ((2, 0) if on_nan == "drop" else (1, 1))
    assert bits(ends["window"][0]) == bits(params)
    assert bits(ends["window"][1].inner) == bits(optax.adam(1e-2).init(params))
    rest = accumulate(optax.adam(1e-2), 3)
    state, take, want = rest.init(params), step(rest), params
    for g in [grads[0], *grads[2:4]]:
        want, state = take(g, state, want)
    assert bits(ends["drop"][0]) == bits(want)


def test_a_window_without_weight_is_no_step():
    params, grads = example(count=2)
    optimizer = accumulate(optax.adam(1e-2), 2)
    state, take, after = optimizer.init(params), in_place(optimizer), params
    for g in grads:
        after, state = take(g, state, after, 0.0)
    assert bits(after) == bits(params)
    assert (int(state.windows), int(state.lost), int(state.dropped)) == (0, 1, 0)


def test_a_window_shares_one_scale_which_moves_at_its_end():
    # At interval 1 the scale would double at every micro-batch.
    optimizer = accumulate(loss_scaled(optax.sgd(1.0), dynamic_loss_scale(8, growth_interval=1)), 3)
    params = jnp.float32(0)
    state, take, scales = optimizer.init(params), in_place(optimizer), []
    for g in [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]:
        scale = scale_of(state)
        scales.append(float(scale))
        params, state = take(jnp.float32(g) * scale, state, params)
    assert scales == [8, 8, 8, 16, 16, 16]
    assert float(params) == -2.0 - 5.0


@pytest.mark.parametrize(("on_nan", "moved", "skipped"), [("drop", True, 0), ("window", False, 1)])
def test_a_scale_that_is_too_large_backs_off(on_nan, moved, skipped):
    optimizer = accumulate(loss_scaled(optax.sgd(1.0), dynamic_loss_scale(8)), 2, on_nan=on_nan)
    params = jnp.float32(0)
    state, take = optimizer.init(params), in_place(optimizer)
    for g in [8.0, jnp.inf]:
        params, state = take(jnp.float32(g), state, params)
    assert float(scale_of(state)) == 4
    assert (float(params) != 0) is moved
    assert int(state_of(state).skipped) == skipped
    # Where nothing is left of a window, the scaler hears of that too.
    for g in [jnp.inf, jnp.nan]:
        before = params
        params, state = take(jnp.float32(g), state, params)
    assert (float(scale_of(state)), int(state_of(state).skipped)) == (2, skipped + 1)
    assert bits(params) == bits(before)


def test_within_loss_scaled_each_micro_batch_is_judged_by_itself():
    optimizer = loss_scaled(accumulate(optax.sgd(1.0), 2), dynamic_loss_scale(8, growth_interval=1))
    params = jnp.float32(0)
    state, take = optimizer.init(params), in_place(optimizer)
    for g in [1.0, jnp.nan, 3.0, 5.0]:
        before = state
        params, state = take(jnp.float32(g) * scale_of(state), state, params)
        if g != g:
            assert bits(state.inner) == bits(before.inner)
    assert float(params) == -2.0  # 5 waits for its window's end
    assert int(state.inner.seen) == 1


def test_model_state_goes_by_the_last_micro_batch():
    optimizer = accumulate(loss_scaled(optax.sgd(1.0), dynamic_loss_scale()), 2, on_nan="window")
    params, state = jnp.float32(0), optimizer.init(jnp.float32(0))
    kept = []
    for g in [jnp.nan, 1.0, 1.0, 1.0]:
        _, state = in_place(optimizer)(jnp.float32(g), state, params)
        kept.append(bool(keep_if_skipped(state, jnp.bool_(True), jnp.bool_(False))))
    assert kept == [False, True, True, True]


def test_bad_arguments_are_refused():
    for k in (0, 2.0, True):
        with pytest.raises(ValueError, match="how many micro-batches make a window"):
            accumulate(optax.sgd(1.0), k)
    with pytest.raises(ValueError, match="no on_nan is called 'windows'; did you mean 'window'"):
        accumulate(optax.sgd(1.0), 2, on_nan="windows")
