"""Narrow parameters that learn, against optax in float32 and NumPy models of each rounding."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from precis.formats import cast_to, round_to
from precis.optim import (
    apply_update,
    dynamic_loss_scale,
    loss_scaled,
    master_weights,
    quantized_state,
    state_of,
)
from precis.optim.chunks import _CHUNK
from precis.sweep.store import checkpoints

ROUNDINGS = ["nearest", "stochastic", "kahan"]
# Factors are powers of two, so that a compiler's multiply-add rounds as two operations do.
SGD = optax.sgd(2.0**-7, momentum=0.5)


def bits(tree):
    """Every leaf as its bytes, so that -0.0 is not 0.0 and NaN equals itself."""

    def raw(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return [(str(a.dtype), a.shape, a.tobytes()) for a in map(raw, jax.tree.leaves(tree))]


def example(dtype, size=500):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal(size), dtype), "b": jnp.zeros(3, dtype)}
    draw = lambda p: jnp.asarray(rng.standard_normal(p.shape), dtype)  # noqa: E731
    return params, [jax.tree.map(draw, params) for _ in range(6)]


def in_place(optimizer):
    return jax.jit(lambda g, s, p: apply_update(optimizer, g, s, p)[:2])


def by_optax(optimizer):
    def step(grads, state, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def run(optimizer, params, grads, step=in_place):
    state, take = optimizer.init(params), step(optimizer)
    for g in grads:
        params, state = take(g, state, params)
    return params, state


@pytest.mark.parametrize("step", [in_place, pytest.param(by_optax, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_float32_storage_is_the_inner_optimizer_bit_for_bit(rounding, step):
    params, grads = example("float32")
    inner = optax.adamw(1e-2, weight_decay=0.1)
    params, state = run(master_weights(inner, "f32", rounding), params, grads, step)
    want, want_state = run(inner, *example("float32"), step)
    assert bits((params, state.inner)) == bits((want, want_state))
    assert state.kept == {}


@pytest.mark.world
@pytest.mark.parametrize(
    ("fmt", "step"),
    [
        ("bf16", in_place),
        ("e5m3", by_optax),
        *(
            pytest.param(fmt, step, marks=pytest.mark.nightly)
            for fmt, step in [("f16", in_place), ("e5m3", in_place), ("bf16", by_optax)]
        ),
    ],
)
def test_a_master_is_optax_in_float32_and_is_rounded(fmt, step):
    params, grads = example("float32")
    params, grads = (jax.tree.map(lambda x: cast_to(x, fmt), tree) for tree in (params, grads))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (params, grads))
    got, state = run(master_weights(SGD, f"p={fmt},c=f32,o=f32"), params, grads, step)
    want, want_state = run(SGD, *wide)
    assert bits({path: kept.value for path, kept in state.kept.items()}) == bits(want)
    assert bits(state.inner) == bits(want_state)
    assert bits(got) == bits(jax.tree.map(lambda x: cast_to(x, fmt), want))


def test_a_master_of_another_format():
    params, grads = example("bfloat16")
    got, state = run(master_weights(SGD, "p=e5m2,c=f32,o=f32", master="bf16"), params, grads)
    # optax on bfloat16 parameters, but with float32 gradients, is what the master is.
    want = params
    momentum = jax.tree.map(jnp.zeros_like, grads[0])
    for g in grads:
        momentum = jax.tree.map(lambda g, t: g.astype(jnp.float32) + t / 2, g, momentum)
        want = jax.tree.map(lambda p, t: (p - t * 2.0**-7).astype(jnp.bfloat16), want, momentum)
    assert bits({path: kept.value for path, kept in state.kept.items()}) == bits(want)
    assert bits(got) == bits(jax.tree.map(lambda x: cast_to(x, "e5m2"), want))


def kahan_of(params, updates, dtype):
    """Zamirai et al., algorithm 1: what a sum leaves out is added to the next update."""
    p, left = params.astype(dtype), np.zeros(params.shape, dtype)
    for u in updates:
        y = left.astype(np.float32) + u
        new = (p.astype(np.float32) + y).astype(dtype)
        left = (y - (new.astype(np.float32) - p.astype(np.float32))).astype(dtype)
        p = new
    return p, left


@pytest.mark.parametrize(
    ("dtype", "step"), [(ml_dtypes.bfloat16, in_place), (np.float16, by_optax)]
)
def test_kahan_is_its_model_in_numpy(dtype, step):
    params, grads = example(dtype)
    fmt = "bf16" if dtype is ml_dtypes.bfloat16 else "f16"
    optimizer = master_weights(optax.sgd(2.0**-10), f"p={fmt},c=f32,o=f32", "kahan")
    got, state = run(optimizer, params, grads * 5, step)
    updates = [-np.asarray(g["w"]).astype(np.float32) * 2.0**-10 for g in grads * 5]
    want, left = kahan_of(np.asarray(params["w"]), updates, dtype)
    np.testing.assert_array_equal(np.asarray(got["w"]), want)
    np.testing.assert_array_equal(np.asarray(state.kept["w"].value), left)


@pytest.mark.world
@pytest.mark.parametrize("rounding", [None, *ROUNDINGS])
def test_a_thousand_small_steps(rounding):
    inner = optax.sgd(1e-3)
    optimizer = inner if rounding is None else master_weights(inner, "bf16", rounding)
    params = jnp.ones(64, jnp.bfloat16)

    @jax.jit
    def train(params):
        def body(carry, _):
            params, state = carry
            return apply_update(optimizer, jnp.ones_like(params), state, params)[:2], None

        return jax.lax.scan(body, (params, optimizer.init(params)), None, length=1000)[0]

    after = np.asarray(train(params)[0], np.float32)
    match rounding:
        case None:
            assert (after == 1).all()  # a thousandth is less than half an ulp of 1
        case "nearest":
            np.testing.assert_allclose(after, 0, atol=1e-5)  # a thousand roundings of 2^-25
        case "kahan":
            # The compensation is off by half of its ulp, 2^-9 of an ulp of 1, at each step: a
            # thousand times 2^-18 at most.
            np.testing.assert_allclose(after, 0, atol=1000 * 2.0**-18)
        case "stochastic":
            # A step's variance is at most 2^-7 · 1e-3, a neighbor's distance times what is moved.
            deviation = (1000 * 2.0**-7 * 1e-3) ** 0.5
            assert abs(after.mean()) < 5 * deviation / 8  # the mean of 64
            assert (np.abs(after) < 6 * deviation).all()


def test_stochastic_rounding_is_unbiased_to_one_of_the_neighbors():
    size, update = 1 << 16, 1e-3
    params = {"w": jnp.ones(size, jnp.bfloat16)}
    optimizer = master_weights(optax.sgd(update), "bf16", "stochastic")
    after = run(optimizer, params, [params])[0]["w"].astype(jnp.float32)
    below = 1 - 2.0**-8
    assert set(np.unique(after)) == {1.0, below}
    share = update * 2.0**8  # of those that should go down
    deviation = (share * (1 - share) / size) ** 0.5
    assert abs(float((after == below).mean()) - share) < 4 * deviation


def test_leaves_steps_and_seeds_draw_bits_of_their_own():
    ones = jnp.ones(4096, jnp.bfloat16)
    params = {"a": ones, "b": ones}

    def drawn(seed, steps=1):
        optimizer = master_weights(optax.sgd(2.0**-9), "bf16", "stochastic", seed=seed)
        state, take, seen = optimizer.init(params), in_place(optimizer), []
        for _ in range(steps):
            after, state = take(params, state, params)
            seen += [np.asarray(after["a"] < 1), np.asarray(after["b"] < 1)]
        return seen

    flips = [*drawn(0, steps=2), *drawn(1)]
    for i, one in enumerate(flips):
        for other in flips[:i]:
            # Of fair coins, two agree on half: 2048 with a deviation of 32.
            assert abs(int((one == other).sum()) - 2048) < 5 * 32
    assert all(map(np.array_equal, drawn(0), flips[:2]))


@pytest.mark.parametrize(
    ("rounding", "outer"),
    [
        ("nearest", True),
        ("kahan", False),
        ("stochastic", True),
        *(
            pytest.param(rounding, outer, marks=pytest.mark.nightly)
            for rounding, outer in [("nearest", False), ("kahan", True), ("stochastic", False)]
        ),
    ],
)
def test_a_skipped_step_leaves_every_bit(rounding, outer):
    params, grads = example("bfloat16")
    params["b"] = jnp.asarray([-0.0, 1e-40, 3.0], jnp.bfloat16)
    scale = dynamic_loss_scale(8.0)
    if outer:
        optimizer = loss_scaled(master_weights(optax.adam(1e-2), "bf16", rounding), scale, clip=1.0)
    else:
        optimizer = master_weights(loss_scaled(optax.adam(1e-2), scale), "bf16", rounding)
    params, state = run(optimizer, params, grads[:2])
    bad = {**grads[2], "w": grads[2]["w"].at[7].set(jnp.nan)}
    after, after_state = in_place(optimizer)(bad, state, params)
    assert int(state_of(after_state).skipped) == 1
    strip = lambda s: s.inner if outer else (s.kept, s.inner.inner)  # noqa: E731
    assert bits((after, strip(after_state))) == bits((params, strip(state)))
    _, again = by_optax(optimizer)(bad, state, params)
    assert bits(strip(again)) == bits(strip(state))


@pytest.mark.parametrize(
    "rounding",
    [pytest.param(r, marks=[] if r == "kahan" else pytest.mark.nightly) for r in ROUNDINGS],
)
def test_updates_are_what_is_applied(rounding):
    params, grads = example("bfloat16")
    optimizer = master_weights(optax.adamw(1e-2, weight_decay=0.1), "bf16", rounding)
    applied = run(optimizer, params, grads)
    updated = run(optimizer, params, grads, by_optax)
    for a, b in zip(jax.tree.leaves(applied[0]), jax.tree.leaves(updated[0]), strict=True):
        # A multiply-add that one program contracts may turn a coin.
        assert (a != b).mean() <= (0.005 if rounding == "stochastic" else 0)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_moments_in_blocks_are_updated_chunk_by_chunk(rounding):
    rng = np.random.default_rng(0)
    size = 2 * _CHUNK + 100
    params = {"w": jnp.ones(size, jnp.bfloat16), "b": jnp.ones(3, jnp.bfloat16)}
    grads = [jax.tree.map(lambda p: jnp.asarray(rng.standard_t(3, p.shape), p.dtype), params)] * 3
    inner = quantized_state(optax.sgd(2.0**-9, momentum=0.5))
    got, state = run(master_weights(inner, "bf16", rounding), params, grads)
    assert set(state.inner.leaves) == {"w"}
    want = np.ones(size)
    updates = []
    plain, plain_state = params, inner.init(params)
    update = jax.jit(inner.update)
    for g in grads:
        u, plain_state = update(g, plain_state, plain)
        updates.append(np.asarray(u["w"]))
    match rounding:
        case "nearest":
            master = np.ones(size, np.float32)
            for u in updates:
                master += u
            want = master.astype(ml_dtypes.bfloat16)
        case "kahan":
            want, _ = kahan_of(np.ones(size, np.float32), updates, ml_dtypes.bfloat16)
        case "stochastic":
            moved = np.asarray(got["w"], np.float32) - 1
            # Three roundings of at most an ulp of 1, 2^-7, each with a deviation of half of that.
            assert np.abs(moved - sum(updates)).max() < 3 * 2.0**-7
            assert abs((moved - sum(updates)).mean()) < 5 * 3**0.5 * 2.0**-8 / size**0.5
            # Equal chunks draw bits of their own.
            return
    # A multiply-add that one program contracts may move a sum by an ulp of float32.
    assert (np.asarray(got["w"]) != want).mean() < 1e-3


def test_chunks_draw_bits_of_their_own():
    params = {"w": jnp.ones(2 * _CHUNK, jnp.bfloat16)}
    optimizer = master_weights(
        quantized_state(optax.sgd(2.0**-9, momentum=0.5)), "bf16", "stochastic"
    )
    after = np.asarray(run(optimizer, params, [params])[0]["w"] < 1)
    agree = int((after[:_CHUNK] == after[_CHUNK:]).sum())
    assert abs(agree - _CHUNK // 2) < 5 * (_CHUNK / 4) ** 0.5


def test_rules_by_path_and_what_is_no_float():
    params = {"head": jnp.ones(4), "body": jnp.ones(4, jnp.bfloat16), "count": jnp.int32(3)}
    optimizer = master_weights(optax.identity(), "bf16; head: p=f32", "kahan")
    state = optimizer.init(params)
    assert set(state.kept) == {"body"}
    updates = {"head": jnp.ones(4), "body": jnp.ones(4), "count": jnp.int32(1)}
    after, _ = run(optimizer, params, [updates])
    assert {k: str(x.dtype) for k, x in after.items()} == {
        "head": "float32",
        "body": "bfloat16",
        "count": "int32",
    }
    assert int(after["count"]) == 4


def test_what_storage_lacks_of_the_first_parameters_is_kept():
    params = {"w": jnp.float32([1 + 2.0**-10, 3.14159])}
    state = master_weights(SGD, "bf16").init(params)
    np.testing.assert_array_equal(state.kept["w"].value, params["w"])
    state = master_weights(SGD, "bf16", "kahan").init(params)
    left = params["w"] - round_to(params["w"], "bf16")
    np.testing.assert_array_equal(state.kept["w"].value, left.astype(jnp.bfloat16))
    assert left.all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_checkpoint_knows_what_it_keeps(tmp_path, rounding):
    params, grads = example("float32")
    params = jax.tree.map(lambda x: cast_to(x, "e5m3"), params)
    make = lambda fmt, how: master_weights(SGD, f"p={fmt},c=f32,o=f32", how)  # noqa: E731
    _, state = run(make("e5m3", rounding), params, grads[:1])
    with checkpoints.opened(tmp_path) as manager:
        checkpoints.save(manager, 1, state)
        template = make("e5m3", rounding).init(params)
        assert bits(checkpoints.restore(manager, template).state) == bits(state)
        with pytest.raises(ValueError, match=r"kept/b was saved as .*e5m3.*, and .*e4m3.* is to"):
            checkpoints.restore(manager, make("e4m3", rounding).init(params))
        other = "kahan" if rounding == "nearest" else "nearest"
        with pytest.raises(ValueError, match=f"{rounding}.*{other}.* is to be restored"):
            checkpoints.restore(manager, make("e5m3", other).init(params))


@pytest.mark.parametrize(("rounding", "kept"), [("nearest", 4), ("stochastic", 0), ("kahan", 2)])
def test_memory_is_what_is_kept_and_no_wide_copy(step_bytes, rounding, kept):
    shape = (4096, 4096)
    leaf = {"w": jax.ShapeDtypeStruct(shape, jnp.bfloat16)}
    optimizer = master_weights(quantized_state(optax.adam(1e-3)), "bf16", rounding)
    # Parameters, gradients, what is kept, and two moments of 8 bits with their scales. XLA on CPU
    # copies the gradients in their 16 bits, with `kahan` another array of 16, and some chunks.
    wanted = 2 + 2 + kept + 2 * (1 + 1 / 64)
    total = step_bytes(optimizer, leaf)
    assert total / np.prod(shape) < wanted + (4.5 if rounding == "kahan" else 2.5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="no rounding is called 'kahn'; did you mean 'kahan'"):
        master_weights(SGD, "bf16", "kahn")
    with pytest.raises(ValueError, match="a master is kept as it is"):
        master_weights(SGD, "bf16", master="e5m3")
    with pytest.raises(ValueError, match="without 64 bits"):
        master_weights(SGD, "bf16", master="f64")
    with pytest.raises(ValueError, match="master=bf16 lacks values of p=f16 at 'w'; choose f32"):
        master_weights(SGD, "p=f16", master="bf16").init({"w": jnp.ones(2, jnp.float16)})
    optimizer = master_weights(SGD, "bf16")
    with pytest.raises(ValueError, match="pass params to update"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
