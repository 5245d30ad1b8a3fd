"""Clipping before an optimizer, against optax's own in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.optim import apply_update, clip_by_norm, clipped_first, quantized_state


def test_it_is_the_chain_by_either_way():
    params = {"w": jnp.linspace(-1, 1, 12).reshape(3, 4), "b": jnp.ones(3)}
    grads = jax.tree.map(lambda p: 4 * jnp.cos(p), params)
    inner = optax.sgd(0.5, momentum=0.5)
    ours, theirs = clipped_first(inner, 1.0), optax.chain(clip_by_norm(1.0), inner)
    state, chained = ours.init(params), theirs.init(params)
    for g in (grads, jax.tree.map(lambda g: g / 100, grads)):
        updates, state = ours.update(g, state, params)
        want, chained = theirs.update(g, chained, params)
        for a, b in zip(*map(jax.tree.leaves, (updates, want)), strict=True):
            np.testing.assert_array_equal(a, b)
    applied = apply_update(ours, grads, ours.init(params), params)
    want, _ = optax.chain(optax.clip_by_global_norm(1.0), inner).update(
        grads, optax.chain(optax.clip_by_global_norm(1.0), inner).init(params), params
    )
    for a, b, p in zip(*map(jax.tree.leaves, (applied.params, want, params)), strict=True):
        np.testing.assert_allclose(a, p + b, rtol=1e-6)


def test_moments_in_blocks_are_clipped_where_they_are_updated():
    params = {"w": jnp.ones(4096)}
    optimizer = clipped_first(quantized_state(optax.sgd(1.0, momentum=0.5), "int8"), 1.0)
    applied = jax.jit(lambda g, s, p: apply_update(optimizer, g, s, p))(
        params, optimizer.init(params), params
    )
    np.testing.assert_allclose(applied.params["w"], 1 - 1 / 64, rtol=1e-6)


def test_a_limit_that_is_none_is_refused():
    with pytest.raises(ValueError, match="clip is a largest global norm"):
        clipped_first(optax.sgd(1.0), 0.0)
