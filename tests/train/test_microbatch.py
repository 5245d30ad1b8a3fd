"""A gradient in parts, against that of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from precis.train import in_microbatches, make_step, value_and_grad


def loss(params, state, batch, *, key, train):
    del train
    y = jnp.tanh(batch["x"] @ params["w"]) @ params["v"]
    value = jnp.mean((y - batch["y"]) ** 2)
    noise = 0.0 if key is None else jax.random.normal(key)
    mean = 0.5 * state["mean"] + 0.5 * batch["x"].mean(0)
    return value, ({"mean": mean}, {"size": jnp.mean(y), "noise": noise, "rows": len(y)})


def example(rows=32):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"w": jax.random.normal(keys[0], (6, 5)), "v": jax.random.normal(keys[1], (5, 2))}
    batch = {"x": jax.random.normal(keys[2], (rows, 6)), "y": jax.random.normal(keys[3], (rows, 2))}
    return params, {"mean": jnp.ones(6)}, batch


def gradient_under(policy):
    return value_and_grad(loss, policy, has_aux=True, state_argnums=1)


@pytest.mark.world
@pytest.mark.parametrize("k", [pytest.param(2, marks=pytest.mark.nightly), 8])
def test_parts_make_the_gradient_of_the_whole(k):
    args = example()
    (value, (state, metrics)), grads = jax.jit(
        lambda *a: in_microbatches(gradient_under("f32"), k)(*a, key=None, train=True)
    )(*args)
    (want, (_, wanted)), want_grads = jax.jit(
        lambda *a: gradient_under("f32")(*a, key=None, train=True)
    )(*args)
    # A gradient is a mean of 32 rows' terms, each of at most M: sums of 32 in either order are off
    # by 32 · 2^-24 of Σ|terms| ≤ 32 M, so the means by 32 · 2^-24 · M each; products add a few.
    params, _, batch = args
    one = lambda p, row: loss(p, args[1], row, key=None, train=True)[0]  # noqa: E731
    rows = jax.tree.map(lambda x: x[:, None], batch)
    each = jax.vmap(jax.grad(one), in_axes=(None, 0))(params, rows)
    for a, b, terms in zip(*map(jax.tree.leaves, (grads, want_grads, each)), strict=True):
        bound = 2 * (32 + 8) * 2.0**-24 * np.abs(terms).max()
        assert np.abs(a - b).max() < bound
    np.testing.assert_allclose(value, want, rtol=40 * 2.0**-24)
    np.testing.assert_allclose(metrics["size"], wanted["size"], rtol=1e-5, atol=1e-6)
    assert metrics["rows"] == 32 / k
    mean = np.ones(6, np.float32)
    for part in np.split(np.asarray(batch["x"]), k):
        mean = 0.5 * mean + 0.5 * part.mean(0)
    np.testing.assert_allclose(state["mean"], mean, rtol=1e-5, atol=1e-6)


def test_parts_weigh_what_they_are_said_to():
    params, state, batch = example(4)
    tokens = jnp.float32([3, 1, 0, 2])
    batch["tokens"] = tokens
    fn = in_microbatches(gradient_under("f32"), 4, weight=lambda part: part["tokens"][0])
    (value, _), grads = fn(params, state, batch, key=None, train=True)
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(4)]
    alone = [gradient_under("f32")(params, state, row, key=None, train=True) for row in rows]
    kernels = np.stack([np.asarray(g["w"], np.float64) for _, g in alone])
    np.testing.assert_allclose(
        grads["w"], np.tensordot(np.asarray(tokens), kernels, 1) / 6, rtol=1e-5, atol=1e-7
    )
    values = np.float64([float(value) for (value, _), _ in alone])
    np.testing.assert_allclose(value, np.asarray(tokens) @ values / 6, rtol=1e-6)


def test_each_part_has_a_key_and_gradients_are_summed_in_float32():
    params, state, batch = example()
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    key = jax.random.key(5)
    (_, (_, metrics)), grads = in_microbatches(gradient_under("bf16"), 2)(
        narrow, state, batch, key=key, train=True
    )
    draws = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(2)]
    np.testing.assert_allclose(metrics["noise"], np.mean(draws), rtol=1e-6)
    halves = [jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(16), slice(16, 32))]
    parts = [
        gradient_under("bf16")(narrow, state, half, key=key, train=True)[1]["w"] for half in halves
    ]
    assert parts[0].dtype == jnp.bfloat16
    assert grads["w"].dtype == jnp.float32
    want = (parts[0].astype(jnp.float32) + parts[1].astype(jnp.float32)) / 2
    np.testing.assert_allclose(grads["w"], want, rtol=2.0**-7, atol=1e-3)
    assert (grads["w"] != grads["w"].astype(jnp.bfloat16)).any()


def test_memory_falls_with_the_number_of_parts():
    layers, dim, rows = 6, 64, 1024
    params = {"w": jax.ShapeDtypeStruct((layers, dim, dim), jnp.float32)}
    batch = jax.ShapeDtypeStruct((rows, dim), jnp.float32)

    def deep(params, batch):
        body = lambda x, w: (x + jnp.tanh(x @ w), None)  # noqa: E731
        return jnp.mean(lax.scan(body, batch, params["w"])[0] ** 2)

    def temporaries(k):
        step = make_step(deep, optax.sgd(0.1), "f32", accumulate=k, jit=False)
        state = jax.eval_shape(step.init, params)
        memory = jax.jit(step.update).lower(state, batch, None).compile().memory_analysis()
        return memory.temp_size_in_bytes

    one, eight = temporaries(1), temporaries(8)
    sums = 2 * layers * dim * dim * 4  # the gradients of a part, and their sum
    assert eight - sums < (one - sums) / 4


@pytest.mark.parametrize(
    "policy",
    ["mixed_f16", *(pytest.param(p, marks=pytest.mark.nightly) for p in ("f32", "bf16"))],
)
def test_a_step_in_parts_learns_as_one_in_one(policy):
    params, state, batch = example()
    ends = []
    for k in (1, 4):
        step = make_step(loss, optax.sgd(0.05), policy, has_state=True, accumulate=k, master="f32")
        now = step.init(params, state)
        for _ in range(20):
            now, metrics = step(now, batch)
        ends.append(float(metrics["loss"]))
    assert ends[0] == pytest.approx(ends[1], rel=1e-4 if policy == "f32" else 0.05)


def test_a_nan_in_one_part_skips_the_step():
    params, state, batch = example()
    step = make_step(loss, optax.sgd(0.05), "mixed_f16", has_state=True, accumulate=4)
    before = step.init(params, state)
    after, metrics = step(before, {**batch, "x": batch["x"].at[9, 0].set(jnp.nan)})
    assert int(metrics["skipped"]) == 1
    for a, b in zip(*map(jax.tree.leaves, (after.params, before.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(after.state["mean"], before.state["mean"])


def test_bad_numbers_and_batches_are_refused():
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match="accumulate is how many parts"):
            in_microbatches(gradient_under("f32"), k)
    with pytest.raises(ValueError, match=r"accumulate=5 does not divide .*: x is \[32, 6\]"):
        in_microbatches(gradient_under("f32"), 5)(*example(), key=None, train=True)

    def widening(params, state, batch, *, key, train):
        value, (state, metrics) = loss(params, state, batch, key=key, train=train)
        return value, ({"mean": state["mean"][:3]}, metrics)

    fn = in_microbatches(value_and_grad(widening, "f32", has_aux=True, state_argnums=1), 2)
    with pytest.raises(ValueError, match=r"state mean was float32\[6\] and became float32\[3\]"):
        fn(*example(), key=None, train=True)


def test_each_part_rounds_by_a_chance_of_its_own():
    params, state, batch = example(16)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
    make = lambda k: make_step(  # noqa: E731
        lambda p, s, b, *, key, train: loss(p, s, b, key=None, train=train),
        optax.sgd(1.0),
        "p=f32,c=f32,g=int4(stochastic),o=f32",
        has_state=True,
        accumulate=k,
    )
    key = jax.random.key(3)
    parts = [
        make(1)(make(1).init(params, state), batch, jax.random.fold_in(key, i))[0].params["w"]
        for i in range(2)
    ]
    both = make(2)(make(2).init(params, state), twice, key)[0].params["w"]
    assert (parts[0] != parts[1]).any()
    # A mean of two gradients, subtracted: two roundings of at most 2^-24 of what is there.
    np.testing.assert_allclose(both, (parts[0] + parts[1]) / 2, rtol=1e-5, atol=1e-6)
