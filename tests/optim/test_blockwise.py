"""Moments in blocks, against the whole leaf decoded, updated by optax, and encoded again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.formats import parse, quantize_dequantize
from precis.formats.ladder import number_at
from precis.optim import (
    InPlace,
    add_updates,
    apply_update,
    dynamic_loss_scale,
    loss_scaled,
    quantized_state,
    state_of,
    stored_moments,
)
from precis.optim.chunks import _CHUNK
from precis.optim.fields import SECOND, map_moments
from precis.tree import nbytes

INNERS = {
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "lion": optax.lion(1e-3),
    "sgd": optax.sgd(0.1, momentum=0.9),
}
# In order: blocks of which the last is short, one chunk, one chunk and a short block, two chunks.
SIZES = [4096, 5000, _CHUNK, _CHUNK + 100, 2 * _CHUNK]


def gradients(seed, size):
    """Heavy-tailed, as gradients are."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_t(3, size) * 10.0 ** rng.uniform(-4, 0, size), jnp.float32)


def raw(x):
    return np.asarray(x).tobytes()


def coded(x, fmt):
    """`x` as blocks of its flat form say it."""
    flat = jnp.ravel(x)
    return quantize_dequantize(flat, fmt).reshape(x.shape)


def coded_second(x, fmt):
    """The same of a second moment: what is positive becomes the smallest value, and not 0."""
    fmt = parse(fmt)
    blocks = np.pad(np.ravel(x), (0, -x.size % fmt.block)).reshape(-1, fmt.block)
    smallest = float(number_at(1, fmt.grid))
    least = blocks.max(1, keepdims=True) * np.float32(smallest / fmt.grid.max)
    least = np.broadcast_to(least, blocks.shape).reshape(-1)[: x.size].reshape(x.shape)
    near = coded(x, fmt)
    return jnp.where((near == 0) & (x > 0), least, near)


def reference(inner, first, second, params, grads):
    """The same by whole leaves: what blocks must equal."""
    state = inner.init(params)
    for g in grads:
        updates, state = inner.update(g, state, params)
        params = optax.apply_updates(params, updates)
        state = map_moments(
            lambda tree, name: {
                k: coded_second(x, second) if name in SECOND else coded(x, first)
                for k, x in tree.items()
            },
            state,
        )
    return params


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(name, size, marks=[] if by_day else pytest.mark.nightly)
        for name in INNERS
        for size in SIZES
        for by_day in [name == "adam" or size in (5000, _CHUNK + 100)]
    ],
)
def test_blocks_equal_whole_leaves(name, size):
    inner = INNERS[name]
    params = {"w": gradients(0, size)}
    grads = [{"w": gradients(seed, size)} for seed in (1, 2, 3)]
    optimizer = quantized_state(inner, "dynamic8", "e5m2")
    state, got = optimizer.init(params), params
    step = jax.jit(lambda g, s, p: apply_update(optimizer, g, s, p)[:2])
    for g in grads:
        got, state = step(g, state, got)
    want = reference(inner, "dynamic8@block256", "e5m2@block256", params, grads)
    # A multiply-add that one program contracts may move a moment by an ulp, and that its code:
    # then a step differs by a fraction of the learning rate. It must be rare.
    differs = np.abs(np.asarray(got["w"] - want["w"])) > 3e-7
    assert differs.mean() < 2e-3
    np.testing.assert_allclose(got["w"], want["w"], rtol=0, atol=0.03)


@pytest.mark.parametrize("shape", [(4096,), (64, 65), (3, 40, 41)])
def test_updates_are_what_is_applied(shape):
    params = {"a": {"w": gradients(0, shape)}, "b": gradients(1, 3)}
    optimizer = quantized_state(optax.adamw(1e-2, weight_decay=0.1), "int8")
    state = optimizer.init(params)
    grads = jax.tree.map(lambda p: gradients(2, p.shape), params)
    updates, after = jax.jit(optimizer.update)(grads, state, params)
    applied = jax.jit(lambda g, s, p: apply_update(optimizer, g, s, p))(grads, state, params)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(applied.state), strict=True):
        np.testing.assert_array_equal(a, b)
    for u, p, new in zip(*map(jax.tree.leaves, (updates, params, applied.params)), strict=True):
        assert u.dtype == jnp.float32
        np.testing.assert_allclose(p + u, new, rtol=2.0**-23, atol=2.0**-26)


def test_small_and_kept_leaves_are_optax_bit_for_bit():
    params = {"embed": gradients(0, (64, 64)), "norm": gradients(1, 64), "w": gradients(2, 8192)}
    grads = jax.tree.map(lambda p: gradients(3, p.shape), params)
    inner = optax.adam(1e-3)
    optimizer = quantized_state(inner, keep=["embed"])
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    want, _ = inner.update(grads, inner.init(params), params)
    assert set(state.leaves) == {"w"}
    for name in ("embed", "norm"):
        np.testing.assert_array_equal(updates[name], want[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_parameters_are_updated_from_float32(dtype):
    params = {"w": jnp.ones(4096, dtype)}
    optimizer = quantized_state(optax.sgd(2.0**-12, momentum=0.9), "int8")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates["w"].dtype == jnp.float32
    applied = apply_update(optimizer, params, optimizer.init(params), params)
    assert applied.params["w"].dtype == dtype


def test_one_moment_in_a_dtype_and_one_in_blocks():
    params = {"w": gradients(0, 5000)}
    optimizer = stored_moments(optax.adam(1e-3), "bf16", "dynamic8@block128")
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    (adam, _) = state.leaves["w"]
    assert adam.mu.dtype == jnp.bfloat16
    np.testing.assert_array_equal(adam.mu, (0.1 * params["w"]).astype(jnp.bfloat16))
    assert adam.nu.codes.shape == (40, 128)
    assert str(adam.nu.format) == "udynamic8@block128"
    np.testing.assert_allclose(
        adam.nu.values, coded_second(0.001 * params["w"] ** 2, "udynamic8@block128"), rtol=1e-6
    )


def test_different_blocks_end_differently():
    params = {"w": gradients(0, _CHUNK + 700)}
    optimizer = stored_moments(optax.adam(1e-3), "int8@block256", "dynamic8@block96")
    grads = {"w": gradients(1, _CHUNK + 700)}
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    want, _ = optax.adam(1e-3).update(grads, optax.adam(1e-3).init(params), params)
    np.testing.assert_allclose(updates["w"], want["w"], rtol=1e-5)  # moments were still zero
    (adam, _) = state.leaves["w"]
    np.testing.assert_allclose(adam.mu.values, coded(0.1 * grads["w"], "int8@block256"), rtol=1e-6)


@pytest.mark.parametrize(("m", "v"), [("dynamic8", "dynamic8"), ("int8", "e5m2")])
def test_no_entry_is_thrown_away(m, v):
    # Gradients over five decades in a block: with v rounded to 0, dynamic8 took steps of 16,000
    # learning rates. Those of float32 are at most 1.003; these were 1.5 and 3.1 when written.
    magnitudes = np.float32(10.0 ** np.random.default_rng(0).uniform(-5, 0, 4096))
    optimizer = quantized_state(optax.adam(1.0), m, v)
    update = jax.jit(optimizer.update)
    state, rng = optimizer.init({"w": jnp.zeros(4096)}), np.random.default_rng(1)
    for _ in range(50):
        grads = {"w": jnp.asarray(magnitudes * np.float32(rng.standard_normal(4096)))}
        updates, state = update(grads, state)
        assert np.abs(updates["w"]).max() < 4
    # And an entry whose gradients stop comes to rest.
    updates, state = update({"w": jnp.zeros(4096)}, state)
    assert np.abs(updates["w"]).max() < 4
    assert (np.asarray(state.leaves["w"][0].nu.values) > 0).all()


def test_a_second_moment_of_nothing_stays_nothing():
    optimizer = quantized_state(optax.adam(1e-3))
    grads = {"w": jnp.zeros(4096).at[5].set(1.0)}
    _, state = optimizer.update(grads, optimizer.init(grads), grads)
    assert np.flatnonzero(state.leaves["w"][0].nu.values).tolist() == [5]


def test_states_take_a_quarter():
    params = {"w": jnp.zeros((512, 512))}
    ratio = nbytes(quantized_state(optax.adam(1.0)).init(params).leaves) / (2 * nbytes(params))
    assert ratio < 0.26


def test_memory_of_a_large_leaf(step_bytes):
    leaf = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}
    optimizer = quantized_state(optax.adam(1e-3))
    # 128 MiB are parameters and gradients; float32 moments would be 128 more.
    assert step_bytes(optimizer, leaf) / 2**20 - 128 < 38


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_skipped_step_leaves_every_bit(bad):
    params = {"w": gradients(0, _CHUNK + 300), "b": gradients(1, 7)}
    optimizer = loss_scaled(quantized_state(optax.adamw(1e-3)), dynamic_loss_scale(), clip=1.0)
    state = optimizer.init(params)
    step = jax.jit(lambda g, s, p: apply_update(optimizer, g, s, p)[:2])
    params, state = step(params, state, params)
    grads = {"w": params["w"].at[17].set(bad), "b": params["b"]}
    after, after_state = step(grads, state, params)
    assert int(state_of(after_state).skipped) == 1
    before = (params, state_of(state).inner)
    for a, b in zip(
        *map(jax.tree.leaves, (before, (after, state_of(after_state).inner))), strict=True
    ):
        assert raw(a) == raw(b)


def test_the_tally_is_added_over_chunks_and_leaves():
    params = {"w": jnp.ones(2 * _CHUNK + 5), "b": jnp.ones(3)}

    def count(params, updates):
        new, _ = add_updates(params, updates)
        return new, sum(jnp.sum(u != 0) for u in jax.tree.leaves(updates))

    optimizer = quantized_state(optax.adam(1e-3))
    state = optimizer.init(params)
    for when, counted in [(None, 2 * _CHUNK + 8), (True, 2 * _CHUNK + 8), (False, 0)]:
        how = InPlace(count, when=None if when is None else jnp.asarray(when))
        assert int(apply_update(optimizer, params, state, params, how=how).tally) == counted


def test_a_block_with_a_nan_is_nan_and_others_are_not():
    params = {"w": jnp.ones(4096)}
    optimizer = quantized_state(optax.sgd(0.1, momentum=0.9))
    grads = {"w": jnp.ones(4096).at[300].set(jnp.nan)}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    values = state.leaves["w"][0].trace.values
    assert np.isnan(values[256:512]).all()
    np.testing.assert_array_equal(values[:256], 1)
    np.testing.assert_array_equal(values[512:], 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: quantized_state(optax.adam(1.0), v="int8"), r"v=int8@block256: .* explode"),
        (lambda: quantized_state(optax.adam(1.0), v="nf4"), r"v=nf4@block256: .* explode"),
        (lambda: quantized_state(optax.adam(1.0), "uint8"), "no negative values"),
        (lambda: quantized_state(optax.adam(1.0), "e5m8"), "at most 8 bits"),
        (
            lambda: quantized_state(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1.0))),
            r"mixes those of a leaf \(reduce_sum\): chain",
        ),
        (lambda: quantized_state(optax.lamb(1.0)), "mixes those of a leaf"),
        (lambda: stored_moments(optax.adam(1.0), "int8", "f32"), "wants blocks, as in int8@block"),
        (lambda: stored_moments(optax.adam(1.0), "f32", "f32", keep=["a"]), "have none"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (quantized_state(optax.adam(1.0), keep=["embedding"]), "did you mean 'embed'"),
        (quantized_state(optax.adam(1.0), min_size=10**6), "no parameter has its moments in block"),
        (quantized_state(optax.amsgrad(1.0)), "keeps .*nu_max"),
        (quantized_state(optax.rmsprop(1.0, initial_scale=1.0)), "start from 0"),
    ],
)
def test_what_does_not_fit_the_parameters_is_refused(optimizer, message):
    with pytest.raises(ValueError, match=message):
        optimizer.init({"embed": jnp.zeros(4096), "w": jnp.zeros((64, 64))})
