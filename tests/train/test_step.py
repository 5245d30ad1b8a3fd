"""The training step: the whole dance against optax by hand, skips, and what it measures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.optim import dynamic_loss_scale, loss_scale_like
from precis.train import Recipe, make_step


def problem():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"w": jax.random.normal(keys[0], (6, 3)), "b": jnp.zeros(3)}
    x = jax.random.normal(keys[1], (32, 6))
    return params, {"x": x, "y": x @ jax.random.normal(keys[2], (6, 3))}


def loss(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), a, b))


def test_under_f32_it_is_optax_by_hand():
    params, batch = problem()
    optimizer = optax.adam(1e-2)

    @jax.jit
    def by_hand(params, state):
        grads = jax.grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = make_step(loss, optimizer, "f32")
    ours, (theirs, state) = step.init(params), (params, optimizer.init(params))
    for _ in range(5):
        ours, metrics = step(ours, batch)
        theirs, state = by_hand(theirs, state)
    # Adam turns gradients that differ in the last bit into equal steps, to a few ulps.
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-6, atol=1e-7), ours.params, theirs)
    )
    assert int(ours.step) == 5
    assert set(metrics) == {"loss", "grad_norm", "finite", "grad_zero", "update_lost"}


@pytest.mark.world
@pytest.mark.parametrize(
    "policy", ["f32", "mixed_bf16", "bf16", "mixed_f16", "f16", "c=e5m3,o=f32", "e5m7"]
)
def test_every_policy_learns(policy):
    params, batch = problem()
    step = make_step(loss, optax.adam(3e-2), policy, clip=10.0)
    state = step.init(params)
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.1 * losses[0]


def test_params_stay_in_their_format():
    params, batch = problem()
    step = make_step(loss, optax.sgd(0.1), "bf16")
    state, _ = step(step.init(params), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("policy", "m", "v"),
    [
        ("bf16", "bfloat16", "bfloat16"),
        ("p=bf16,c=bf16,o=bf16", "float32", "float32"),
        ("p=f16,c=f16,o=f16", "float32", "float32"),
        ("p=f32,c=f32,o=f32,m=bf16,v=f16", "bfloat16", "float16"),
    ],
)
def test_moments_are_stored_as_the_policy_says(policy, m, v):
    params, batch = problem()
    step = make_step(loss, optax.adam(1e-3), policy)
    state, _ = jax.eval_shape(step.update, step.init(params), batch, None)
    adam = getattr(state.opt_state, "inner", state.opt_state)[0]
    assert (adam.mu["w"].dtype, adam.nu["w"].dtype) == (m, v)


@pytest.mark.parametrize(
    ("policy", "choice", "scaled"),
    [
        ("mixed_f16", "auto", True),
        ("c=bf16,g=e5m2", "auto", True),
        ("c=e4m3,o=f32", "auto", True),
        ("p=f32,c=f32,o=f32,w=f16", "auto", True),
        ("mixed_bf16", "auto", False),
        ("mixed_f16", "none", False),
        ("mixed_bf16", "dynamic", True),
        ("f32", "static:128", True),
    ],
)
def test_who_is_scaled(policy, choice, scaled):
    step = make_step(loss, optax.sgd(0.1), policy, loss_scale=choice)
    assert step.is_scaled is scaled
    _, metrics = jax.eval_shape(step.update, step.init(problem()[0]), problem()[1], None)
    assert ("loss_scale" in metrics) is scaled


@pytest.mark.parametrize("name", ["torch", "apex", "jmp", "flax", "keras"])
def test_a_loss_scale_by_a_librarys_name(name):
    step = make_step(loss, optax.sgd(0.1), "f32", loss_scale=name)
    scale = step.init(problem()[0]).opt_state.scale
    assert [float(x) for x in scale] == [float(x) for x in loss_scale_like(name)]
    assert Recipe(loss_scale=name).loss_scale == name


def test_the_loss_is_reported_unscaled():
    params, batch = problem()
    plain, scaled = (
        make_step(loss, optax.sgd(0.1), "f32", loss_scale=s) for s in ("none", "dynamic")
    )
    value = plain(plain.init(params), batch)[1]["loss"]
    assert scaled(scaled.init(params), batch)[1]["loss"] == value


def test_a_power_of_two_scale_changes_nothing_in_f32():
    params, batch = problem()
    after = []
    for scale in ("static:1", "static:1024"):
        step = make_step(loss, optax.sgd(0.1), "f32", loss_scale=scale)
        after.append(step(step.init(params), batch)[0].params)
    assert same(*after)


def task_loss(params, state, batch, *, key, train):
    del key
    assert train is True
    mean = batch["x"].mean(0)
    value = loss(params, batch)
    return value, ({"mean": 0.5 * state["mean"] + 0.5 * mean}, {"twice": 2 * value})


def test_a_skipped_step_leaves_every_bit_and_is_counted():
    params, batch = problem()
    params["b"] = jnp.float32([-0.0, 1e-40, 0.0])
    step = make_step(
        task_loss, optax.adam(0.1), "mixed_f16", has_state=True, loss_scale=dynamic_loss_scale()
    )
    before = step.init(params, {"mean": jnp.ones(6)})
    before, _ = step(before, batch)
    bad = {**batch, "x": batch["x"].at[3, 2].set(jnp.nan)}
    after, metrics = step(before, bad)
    bits = lambda tree: jax.tree.map(lambda x: np.asarray(x).tobytes(), tree)  # noqa: E731
    assert bits(after.params) == bits(before.params)
    assert bits(after.state) == bits(before.state)
    assert bits(after.opt_state.inner) == bits(before.opt_state.inner)
    assert int(metrics["skipped"]) == 1
    assert not metrics["finite"]
    assert float(after.opt_state.scale.value) == float(before.opt_state.scale.value) / 2
    recovered, metrics = step(after, batch)
    assert metrics["finite"]
    assert not same(recovered.params, after.params)


def test_it_says_what_rounding_lost():
    params = {"w": jnp.full((4, 1), 256.0)}
    batch = {"x": jnp.eye(4), "y": jnp.full((4, 1), 255.0)}

    def linear(params, batch):
        return jnp.sum(batch["x"] @ params["w"] - batch["y"])

    step = make_step(linear, optax.sgd(0.25), "bf16")
    _, metrics = step(step.init(params), batch)
    assert metrics["update_lost"] == 1.0  # 256 - 1/4 rounds back to 256 in bfloat16
    _, metrics = make_step(linear, optax.sgd(0.25), "f32")(step.init(params), batch)
    assert metrics["grad_zero"] == 0.0


def test_stochastic_roles_draw_anew_in_each_step_and_leave_the_losses_key_alone():
    params, batch = problem()

    def noisy(params, state, batch, *, key, train):
        del train
        return loss(params, batch), (state, {"drawn": jax.random.uniform(key)})

    policy = "p=f32,c=f32,g=e8m3(stochastic),x=f32,o=f32"
    step = make_step(noisy, optax.sgd(0.1), policy, has_state=True)
    start, key = step.init(params), jax.random.key(0)
    first, metrics = step(start, batch, key)
    assert metrics["drawn"] == jax.random.uniform(key)
    assert same(step(start, batch, key)[0].params, first.params)
    for state, other in ((start, jax.random.key(1)), (start._replace(step=jnp.int32(1)), key)):
        assert not same(step(state, batch, other)[0].params["w"], first.params["w"])
    with pytest.raises(ValueError, match=r"each step wants a random key: step\(train_state, batch"):
        step(start, batch)


def test_one_compilation_for_all_steps():
    params, batch = problem()
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss(params, batch)

    step = make_step(counted, optax.adam(0.1), "mixed_f16")
    state, _ = step(step.init(params), batch)
    seen = len(traces)
    for _ in range(3):
        state, _ = step(state, batch)
    assert len(traces) == seen


def test_bad_words_are_refused():
    with pytest.raises(
        ValueError, match="no loss scale is called 'dynamc'; did you mean 'dynamic'"
    ):
        make_step(loss, optax.sgd(0.1), "f32", loss_scale="dynamc")
    with pytest.raises(ValueError, match="did you mean 'mixed_bf16'"):
        make_step(loss, optax.sgd(0.1), "mixed_bf6")


@pytest.mark.world
@pytest.mark.parametrize("master", ["none", "f32", "stochastic", "kahan"])
def test_narrow_parameters_learn_from_small_steps(master):
    # 300 steps of 2^-11 of a parameter near 1, an eighth of a bfloat16 ulp: all of the way to 0.85,
    # or none of it.
    params = {"w": jnp.ones((64, 1))}
    batch = {"x": jnp.eye(64), "y": jnp.full((64, 1), -1e6)}

    def linear(params, batch):
        return jnp.sum(batch["x"] @ params["w"] - batch["y"])

    step = make_step(linear, optax.sgd(2.0**-11), "bf16; w: w=f32", master=master)
    state, lost = step.init(params), []
    for _ in range(300):
        state, metrics = step(state, batch)
        lost.append(float(metrics["update_lost"]))
    assert state.params["w"].dtype == jnp.bfloat16
    moved = 1 - np.asarray(state.params["w"], np.float32)
    wanted = 300 * 2.0**-11
    match master:
        case "none":
            assert (moved == 0).all()
        case "f32" | "kahan":
            np.testing.assert_allclose(moved, wanted, atol=2.0**-9)
        case "stochastic":
            # 300 steps, each with a variance of at most 2^-11 · 2^-8.
            assert abs(moved.mean() - wanted) < 5 * (300 * 2.0**-19 / 64) ** 0.5
    assert set(lost) == ({1.0} if master == "none" else {0.0})


def test_a_master_starts_from_what_storage_lacks_and_every_key_works_together():
    params, batch = problem()
    params = {**params, "frozen": jnp.ones(5000)}
    step = make_step(
        lambda p, b: loss(p, b) + 0 * p["frozen"].sum(),
        optax.adam(1e-2),
        "p=bf16,c=f16,o=f32,m=dynamic8@block64,v=dynamic8@block64",
        loss_scale="dynamic:growth_interval=5",
        clip=1.0,
        master="f32",
        accumulate=4,
        trainable=["!frozen"],
        moments_keep=["b"],
        moments_min_size=8,
    )
    state = step.init(params)
    kept = state.opt_state.inner.kept
    np.testing.assert_array_equal(kept["w"].value, params["w"])
    assert set(state.opt_state.inner.inner.leaves) == {"w"}
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert float(metrics["loss_scale"]) > 2.0**15
    kept = state.opt_state.inner.kept
    np.testing.assert_array_equal(state.params["w"], kept["w"].value.astype(jnp.bfloat16))


def test_seeds_round_otherwise():
    params, batch = problem()
    step = make_step(loss, optax.sgd(1e-3), "bf16", master="stochastic")
    ends = [step(step.init(params, seed=seed), batch)[0].params for seed in (0, 0, 1)]
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_a_library_s_loss_scale():
    step = make_step(loss, optax.sgd(0.1), "f32", loss_scale="torch")
    assert float(step.init(problem()[0]).opt_state.scale.value) == 2.0**16


def test_another_master_is_refused():
    with pytest.raises(ValueError, match="no master is called 'kahn'; did you mean 'kahan'"):
        make_step(loss, optax.sgd(0.1), "bf16", master="kahn")
