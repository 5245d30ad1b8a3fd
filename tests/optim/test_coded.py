"""Parameters that stay codes between steps, against optax on floats and quantizers by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.optim import (
    apply_update,
    dynamic_loss_scale,
    loss_scaled,
    master_weights,
    quantized_state,
    state_of,
    stored_params,
)
from precis.policy import cast_to_param
from precis.quant import QTensor, dequantize, quantize_array
from precis.sweep.store import checkpoints

from .test_master import bits

POLICY = "p=int8,o=f32"
SGD = optax.sgd(2.0**-7, momentum=0.5)


def example(shape=(12, 16)):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    params = {"kernel": draw(*shape), "bias": draw(shape[-1])}
    return params, [jax.tree.map(lambda x: draw(*x.shape), params) for _ in range(4)]


def onto_int8(x):
    """Values of codes with a scale for each column, in NumPy's float32."""
    scale = np.abs(x).max(-2, keepdims=True) * np.float32(1 / 127)
    return np.clip(np.rint(x * (np.float32(1) / scale)), -127, 127) * scale


def taken(optimizer, stored, state, grads):
    step = jax.jit(lambda g, s, p: apply_update(optimizer, g, s, p)[:2])
    for g in grads:
        stored, state = step(g, state, stored)
    return stored, state


def test_what_is_stored_as_codes_and_what_is_not():
    params = {
        "embed": {"embedding": jnp.ones((8, 4))},
        "norm": {"scale": jnp.ones(4)},
        "body": {"kernel": jnp.ones((4, 6))},
        "head": {"kernel": jnp.ones((6, 2))},
    }
    stored = stored_params("p=int8; head/**: p=bf16; embed/embedding: p=int4", params)
    assert str(stored["body"]["kernel"].format) == "int8@channel"
    assert stored["embed"]["embedding"].axes == (-1,)
    assert (stored["norm"]["scale"].dtype, stored["head"]["kernel"].dtype) == ("f4", jnp.bfloat16)
    assert bits(stored_params("p=int8; head/**: p=bf16", stored)) == bits(stored)
    assert stored_params("bf16", params)["body"]["kernel"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="nothing is quantized"):
        stored_params("p=int8; **: p=f32", params)
    with pytest.raises(ValueError, match=r"p=int8 is codes and scales, not a cast: make_step"):
        cast_to_param("p=int8", params)


def test_a_master_is_optax_in_float32_and_is_quantized():
    params, grads = example()
    optimizer = master_weights(SGD, POLICY)
    stored, state = taken(optimizer, stored_params(POLICY, params), optimizer.init(params), grads)
    wide, plain_state = params, SGD.init(params)
    for g in grads:
        updates, plain_state = SGD.update(g, plain_state, wide)
        wide = optax.apply_updates(wide, updates)
    np.testing.assert_array_equal(state.kept["kernel"].value, wide["kernel"])
    np.testing.assert_array_equal(dequantize(stored["kernel"]), onto_int8(wide["kernel"]))
    np.testing.assert_array_equal(stored["bias"], wide["bias"])
    assert list(state.kept) == ["kernel"]


def test_to_nearest_no_code_would_ever_move():
    """Why nearest without a master is refused: updates of less than half a step are all lost."""
    params, (grads, *_) = example((8, 4))
    first = stored = stored_params(POLICY, params)["kernel"]
    update = 1e-3 * grads["kernel"]
    for _ in range(50):
        stored = quantize_array(dequantize(stored) - update, "int8@channel")
    np.testing.assert_array_equal(stored.values, first.values)
    steps = 50 * np.abs(update) / first.scale
    assert (steps > 1).mean() > 0.5


def test_by_chance_the_mean_is_what_was_meant():
    params, (grads, *_) = example((8, 4))
    # Updates of a hundredth of a step between codes, which rounding to nearest would all lose.
    grads = jax.tree.map(lambda g: g * 0.01, grads)
    optimizer = master_weights(optax.sgd(2.0**-7), POLICY, "stochastic")
    stored, state = stored_params(POLICY, params), optimizer.init(params)

    @jax.jit
    @jax.vmap
    def draw(key):
        kept = {"kernel": jax.tree.map(lambda _: key, state.kept["kernel"])}
        after = apply_update(optimizer, grads, state._replace(kept=kept), stored)
        return dequantize(after.params["kernel"])

    count = 4096
    drawn = np.asarray(draw(jax.random.split(jax.random.key(1), count)), np.float64)
    meant = np.asarray(dequantize(stored["kernel"]) - grads["kernel"] * 2.0**-7, np.float64)
    step = np.abs(meant).max(0) / 127
    assert (np.abs(drawn - meant) < step * (1 + 1e-5)).all()
    # Hoeffding, each draw within an interval of one step: beyond it with probability 1e-9. Two
    # values may share a random word, and count as one of twice the width.
    bound = step * 2 * math.sqrt(math.log(2e9) / (2 * count / 2)) + 1e-6
    assert (np.abs(drawn.mean(0) - meant) < bound).all()
    assert (drawn.std(0) > 0).any()


@pytest.mark.parametrize(
    ("rounding", "outer"),
    [
        ("stochastic", True),
        pytest.param("nearest", True, marks=pytest.mark.nightly),
        pytest.param("stochastic", False, marks=pytest.mark.nightly),
        pytest.param("nearest", False, marks=pytest.mark.nightly),
    ],
)
def test_a_skipped_step_leaves_every_bit(rounding, outer):
    params, grads = example()
    scale = dynamic_loss_scale(8.0)
    if outer:
        optimizer = loss_scaled(master_weights(SGD, POLICY, rounding), scale)
    else:
        optimizer = master_weights(loss_scaled(SGD, scale), POLICY, rounding)
    stored, state = stored_params(POLICY, params), optimizer.init(params)
    stored, state = taken(optimizer, stored, state, grads[:2])
    bad = {**grads[2], "bias": grads[2]["bias"].at[1].set(jnp.inf)}
    after, after_state = taken(optimizer, stored, state, [bad])
    assert int(state_of(after_state).skipped) == 1
    strip = lambda s: s.inner if outer else (s.kept, s.inner.inner)  # noqa: E731
    assert bits((after, strip(after_state))) == bits((stored, strip(state)))
    assert bits(taken(optimizer, stored, state, grads[2:3])[0]) != bits(stored)


def test_a_skipped_first_step_leaves_codes_that_came_from_elsewhere():
    # Of 127 scales a 127th part is the scale again only to an ulp, so codes that are given are
    # not always what their own values are quantized to.
    params, (grads, *_) = example((12, 64))
    stored = stored_params(POLICY, params)
    optimizer = loss_scaled(master_weights(SGD, POLICY), dynamic_loss_scale(8.0))
    state = optimizer.init(stored)
    again = stored_params(POLICY, dequantize(stored))
    assert bits(again) != bits(stored)
    bad = {**grads, "bias": grads["bias"].at[1].set(jnp.inf)}
    after, after_state = taken(optimizer, stored, state, [bad])
    assert int(state_of(after_state).skipped) == 1
    assert bits(after) == bits(stored)


@pytest.mark.parametrize(
    "rounding", ["stochastic", pytest.param("nearest", marks=pytest.mark.nightly)]
)
def test_moments_in_blocks_beside_codes(rounding):
    params, grads = example((128, 64))
    inner = quantized_state(optax.sgd(2.0**-7, momentum=0.5), min_size=4096)
    optimizer = master_weights(inner, POLICY, rounding)
    stored, state = taken(optimizer, stored_params(POLICY, params), optimizer.init(params), grads)
    wide, plain_state = params, inner.init(params)
    for g in grads:
        updates, plain_state = inner.update(g, plain_state, wide)
        wide = optax.apply_updates(wide, updates)
    got = np.asarray(dequantize(stored["kernel"]))
    if rounding == "nearest":
        np.testing.assert_array_equal(got, onto_int8(np.asarray(state.kept["kernel"].value)))
        np.testing.assert_allclose(state.kept["kernel"].value, wide["kernel"], rtol=0, atol=1e-6)
        return
    # Half a step of the first rounding, and one of each step.
    step = np.abs(wide["kernel"]).max(0) / 127
    assert (np.abs(got - wide["kernel"]) < 4.6 * 1.05 * step).all()


def test_a_checkpoint_knows_what_it_keeps(tmp_path):
    params, grads = example()
    make = lambda text, how: master_weights(SGD, text, how)  # noqa: E731
    begun = stored_params(POLICY, params), make(POLICY, "stochastic").init(params)
    saved = taken(make(POLICY, "stochastic"), *begun, grads[:1])
    with checkpoints.opened(tmp_path) as manager:
        checkpoints.save(manager, 1, saved)
        restored = checkpoints.restore(manager, begun).state
        assert bits(restored) == bits(saved)
        optimizer = make(POLICY, "stochastic")
        assert bits(taken(optimizer, *restored, grads[1:])) == bits(
            taken(optimizer, *saved, grads[1:])
        )
        other = stored_params("p=int4@channel", params), make("p=int4@channel", "nearest")
        with pytest.raises(ValueError, match=r"was saved as .*int8@channel.*, and .*int4@channel"):
            checkpoints.restore(manager, (other[0], other[1].init(params)))


def test_what_cannot_be_is_refused():
    params, (grads, *_) = example()
    with pytest.raises(ValueError, match="with kahan: what is left out of codes is no code"):
        master_weights(SGD, POLICY, "kahan").init(params)
    optimizer = master_weights(SGD, POLICY)
    state, stored = optimizer.init(params), stored_params(POLICY, params)
    with pytest.raises(ValueError, match=r"optax\.apply_updates cannot add"):
        optimizer.update(grads, state, stored)
    with pytest.raises(ValueError, match="kernel is stored as int8@channel, got an array"):
        apply_update(optimizer, grads, state, params)
    assert isinstance(stored["kernel"], QTensor)


def test_p_that_stores_nothing_is_told_as_the_policy_says_it():
    params = {"norm": {"scale": jnp.ones((3, 4)), "bias": jnp.ones((3, 4))}}
    with pytest.raises(ValueError, match=r"p=int8: nothing .* norm/bias.*'\*\*/bias: p=int8'"):
        stored_params("p=int8", params)
    stored = stored_params("p=int8; **/bias: p=int8", params)["norm"]
    assert isinstance(stored["bias"], QTensor)
    assert not isinstance(stored["scale"], QTensor)
