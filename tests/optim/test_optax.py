"""At float32 every transformation is the optax optimizer that it wraps, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.optim import (
    accumulate,
    apply_update,
    clip_by_norm,
    dynamic_loss_scale,
    loss_scaled,
    master_weights,
    static_loss_scale,
    stored_moments,
)

STEPS = 20
OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "lion": optax.lion(1e-3, weight_decay=0.01),
    "momentum": optax.sgd(1e-2, momentum=0.9, nesterov=True),
}
NOWHERE = 1e30  # a limit that no gradient here reaches

WRAPPED = {
    "loss_scaled": lambda inner: loss_scaled(inner, static_loss_scale(1.0)),
    # Its scale moves from 1 to 32, and every power of two is exact.
    "dynamic": lambda inner: loss_scaled(inner, dynamic_loss_scale(1.0, growth_interval=4)),
    "clipped": lambda inner: loss_scaled(inner, static_loss_scale(1.0), clip=NOWHERE),
    "chained": lambda inner: optax.chain(clip_by_norm(NOWHERE), inner),
    "stored": lambda inner: stored_moments(inner, "f32", "f32"),
    "master": lambda inner: master_weights(inner, "f32"),
    "accumulated": lambda inner: accumulate(inner, 1),
    "all": lambda inner: loss_scaled(
        master_weights(stored_moments(inner, "f32", "f32"), "f32"), static_loss_scale(1.0)
    ),
}


def draw(rng, shapes):
    return {
        name: jnp.asarray(rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 2, shape), "float32")
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def problem():
    """First parameters, and gradients for each step."""
    rng = np.random.default_rng(0)
    shapes = {"w": (9, 7), "b": (130,)}
    return draw(rng, shapes), [draw(rng, shapes) for _ in range(STEPS)]


@pytest.fixture(scope="module")
def plain(problem):
    """Parameters after each step of each optimizer alone."""
    params, grads = problem
    return {name: steps(optimizer, params, grads) for name, optimizer in OPTIMIZERS.items()}


def steps(optimizer, params, grads, scale_of=lambda state: None):
    """Parameters after each of `grads`, multiplied by the scale that the state says."""
    state, seen = optimizer.init(params), []
    # Not compiled: two programs may contract different products and sums into one rounding.
    with jax.disable_jit():
        for grad in grads:
            scale = scale_of(state)
            scaled = grad if scale is None else jax.tree.map(lambda g, s=scale: g * s, grad)
            updates, state = optimizer.update(scaled, state, params)
            params = optax.apply_updates(params, updates)
            seen.append(jax.tree.map(np.asarray, params))
    return seen


def scale_in(state):
    return getattr(getattr(state, "scale", None), "value", None)


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_wrapped_it_takes_the_same_steps(problem, plain, name, wrapping):
    params, grads = problem
    optimizer = WRAPPED[wrapping](OPTIMIZERS[name])
    for ours, theirs in zip(steps(optimizer, params, grads, scale_in), plain[name], strict=True):
        for leaf, value in theirs.items():
            assert ours[leaf].tobytes() == value.tobytes()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_applied_where_it_is_made_it_is_the_same_step(problem, plain, name):
    params, grads = problem
    optimizer = loss_scaled(OPTIMIZERS[name], static_loss_scale(1.0))
    state = optimizer.init(params)
    with jax.disable_jit():
        for grad, theirs in zip(grads, plain[name], strict=True):
            params, state, _ = apply_update(optimizer, grad, state, params)
            for leaf, value in params.items():
                assert np.asarray(value).tobytes() == theirs[leaf].tobytes()


@pytest.mark.parametrize("limit", [1e-3, 1.0, 50.0])
def test_clipped_it_is_optax_within_the_roundings_of_the_norm(problem, limit):
    params, grads = problem
    ours, theirs = (
        steps(optax.chain(clip, optax.sgd(0.5)), params, grads)
        for clip in (clip_by_norm(limit), optax.clip_by_global_norm(limit))
    )
    # The norm of 200 entries takes as many roundings for its sum and two more, scaling by it two;
    # every addition to a parameter is one more.
    clipping, adding = 2 * 204 * 2.0**-24, 2.0**-24
    path = [params, *theirs]
    for leaf in params:
        places = np.stack([np.asarray(at[leaf], np.float64) for at in path])
        travel = np.abs(np.diff(places, axis=0)).sum(0)
        bound = clipping * travel + 2 * STEPS * adding * np.abs(places).max(0)
        assert (np.abs(ours[-1][leaf] - places[-1]) <= bound).all()
