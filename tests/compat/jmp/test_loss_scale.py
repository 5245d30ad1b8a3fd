"""Loss scales side by side with jmp's on the same steps, and where jmp's are wrong."""

import jax
import jax.numpy as jnp
import jmp as theirs
import numpy as np
import optax
import pytest

from precis.compat import jmp as ours
from tests.compat.jmp.same import bits

F16, BF16, F32 = jnp.float16, jnp.bfloat16, jnp.float32
TRUE = jnp.bool_(True)


def walked(scale, steps, *, compiled):
    """(loss_scale, counter) after each step."""
    adjust = jax.jit(lambda scale, finite: scale.adjust(finite)) if compiled else None
    seen = []
    for finite in steps:
        finite = jnp.bool_(finite)
        scale = adjust(scale, finite) if adjust else scale.adjust(finite)
        seen.append((float(scale.loss_scale), int(scale.counter)))
    return seen


@pytest.mark.parametrize(
    ("value", "period", "factor", "least"),
    [(2.0**15, 3, 2, 1.0), (8.0, 2, 4, 0.5), (3.0, 2, 2, 3.0), (1.0, 5, 16, 2.0**-20)],
)
@pytest.mark.parametrize("good", [0.4, 0.9])
def test_the_schedule_is_jmps(value, period, factor, least, good):
    steps = np.random.default_rng(period).random(80) < good
    fields = {"period": period, "factor": factor, "min_loss_scale": F32(least)}
    # jmp forgets its smallest scale when it is compiled, so it runs as it is.
    wanted = walked(theirs.DynamicLossScale(F32(value), **fields), steps, compiled=False)
    mine = ours.DynamicLossScale(F32(value), **fields)
    assert walked(mine, steps, compiled=True) == wanted
    assert walked(mine, steps[:9], compiled=False) == wanted[:9]


def test_a_factor_that_is_no_power_of_two_is_an_ulp_apart():
    # Multiplied by 1/3 instead of divided by 3: two roundings for one, in each of 20 steps.
    steps = [False] * 10 + [True] * 10
    fields = {"period": 1, "factor": 3, "min_loss_scale": F32(2.0**-100)}
    wanted = walked(theirs.DynamicLossScale(F32(1e4), **fields), steps, compiled=False)
    found = walked(ours.DynamicLossScale(F32(1e4), **fields), steps, compiled=True)
    np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=20 * 2.0**-23)


@pytest.mark.parametrize("make", ["NoOpLossScale", "StaticLossScale", "DynamicLossScale"])
@pytest.mark.parametrize("dtype", [F16, BF16, F32])
def test_scaling_is_jmps_in_float32(make, dtype):
    tree = {"a": jnp.asarray([0.5, -3.0], dtype), "b": [jnp.asarray(2.0**-14, dtype)]}
    args = () if make == "NoOpLossScale" else (F32(1024.0),)
    mine, peer = getattr(ours, make)(*args), getattr(theirs, make)(*args)
    for verb in ("scale", "unscale"):
        # With a strongly typed float32 scale, jax's promotion takes jmp to float32 too.
        assert bits(getattr(mine, verb)(tree)) == bits(getattr(peer, verb)(tree))
    assert mine.loss_scale == peer.loss_scale


@pytest.mark.world
def test_a_float16_loss_does_not_overflow_by_being_scaled():
    loss = F16(4.0)
    for mine, peer in [
        (ours.StaticLossScale(2**15), theirs.StaticLossScale(2**15)),
        (ours.DynamicLossScale(F16(2**15)), theirs.DynamicLossScale(F16(2**15))),
    ]:
        assert float(jax.jit(lambda s, x: s.scale(x))(mine, loss)) == 2.0**17
        assert np.isinf(peer.scale(loss))
        # And a small gradient is not lost by being unscaled.
        assert float(mine.unscale(F16(2.0**-14))) == 2.0**-29
        assert float(peer.unscale(F16(2.0**-14))) == 0.0


def test_integers_and_python_numbers():
    tree = {"count": jnp.int32(3), "loss": 0.25}
    scaled = ours.StaticLossScale(8).scale(tree)
    assert (scaled["count"].dtype, int(scaled["count"]), float(scaled["loss"])) == (jnp.int32, 3, 2)


def test_the_example_of_jmps_readme_runs():
    """A float16 model with `DynamicLossScale(half_dtype()(2 ** 15))`, where jmp raises."""
    with pytest.raises(TypeError, match="same dtypes"):
        theirs.DynamicLossScale(theirs.half_dtype()(2**15)).adjust(TRUE)

    policy = ours.get_policy("params=float32,compute=float16,output=float32")
    optimizer = optax.sgd(0.1)

    def loss_fn(params, loss_scale, x):
        params, x = policy.cast_to_compute((params, x))
        return loss_scale.scale(policy.cast_to_output(jnp.mean((x * params["w"] - 1) ** 2)))

    @jax.jit
    def train_step(params, opt_state, loss_scale, x):
        grads = loss_scale.unscale(jax.grad(loss_fn)(params, loss_scale, x))
        grads_finite = ours.all_finite(grads)
        loss_scale = loss_scale.adjust(grads_finite)
        updates, new_state = optimizer.update(grads, opt_state)
        new = (optax.apply_updates(params, updates), new_state)
        params, opt_state = ours.select_tree(grads_finite, new, (params, opt_state))
        return params, opt_state, loss_scale

    params, loss_scale = {"w": jnp.zeros(3)}, ours.DynamicLossScale(ours.half_dtype()(2**15))
    opt_state = optimizer.init(params)
    for step in range(60):
        x = jnp.full(3, np.nan if step == 30 else 1.0)
        params, opt_state, loss_scale = train_step(params, opt_state, loss_scale, x)
    np.testing.assert_allclose(params["w"], 1.0, atol=0.05)
    assert (float(loss_scale.loss_scale), int(loss_scale.counter)) == (2.0**14, 29)


@pytest.mark.world
def test_the_smallest_scale_survives_jit():
    lost = theirs.DynamicLossScale(F32(8.0), min_loss_scale=F32(4.0))
    kept = ours.DynamicLossScale(F32(8.0), min_loss_scale=F32(4.0))
    assert walked(lost, [False] * 4, compiled=True)[-1] == (1.0, 0)
    assert walked(kept, [False] * 4, compiled=True)[-1] == (4.0, 0)


def test_it_comes_back_from_both_ends():
    down, up = [False] * 200, [True] * 400
    mine = ours.DynamicLossScale(F32(1.0), period=1, min_loss_scale=F32(0.0))
    assert walked(mine, down, compiled=True)[-1] == (2.0**-126, 0)
    assert walked(mine, down + up, compiled=True)[-1] == (2.0**126, 0)
    peer = theirs.DynamicLossScale(F32(1.0), period=1, min_loss_scale=F32(0.0))
    assert walked(peer, down + up[:10], compiled=False)[-1] == (0.0, 0)


def test_they_are_pytrees():
    scale = ours.DynamicLossScale(8.0, period=7, min_loss_scale=0.5)
    assert jax.tree.map(lambda x: x, scale) == scale
    types = [(x.dtype.name, x.shape, x.weak_type) for x in jax.tree.leaves(scale)]
    assert types == [("float32", (), False), ("int32", (), False), ("float32", (), False)]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(scale)]
    assert paths == [".loss_scale", ".counter", ".min_loss_scale"]
    many = jax.tree.map(lambda x: jnp.stack([x, x]), scale)
    after = jax.vmap(lambda scale, finite: scale.adjust(finite))(many, jnp.array([True, False]))
    assert (after.loss_scale.tolist(), after.counter.tolist(), after.period) == ([8, 4], [1, 0], 7)
    assert jax.tree.leaves(ours.NoOpLossScale()) == []
    assert jax.tree.leaves(ours.StaticLossScale(4)) == [4.0]
    assert jax.tree.map(lambda x: x, ours.NoOpLossScale()) == ours.NoOpLossScale()
    traces = []
    unscale = jax.jit(lambda scale, x: traces.append(1) or scale.unscale(x))
    assert [float(unscale(ours.StaticLossScale(s), F32(8))) for s in (2, 4)] == [4.0, 2.0]
    assert traces == [1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ours.StaticLossScale(0.0), "a loss scale lives between"),
        (lambda: ours.StaticLossScale(jnp.ones(2)), "made of scalars"),
        (lambda: ours.DynamicLossScale(0.5), "value must lie between min=1.0"),
        (lambda: ours.DynamicLossScale(8.0, factor=0.5), "growth_factor must be at least 1"),
        (lambda: ours.DynamicLossScale(8.0, period=0), "growth_interval must be a whole number"),
        (lambda: ours.DynamicLossScale(8.0).adjust(jnp.ones(2, bool)), "boolean scalar, got bool"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
