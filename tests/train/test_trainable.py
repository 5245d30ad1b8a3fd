"""Frozen parameters: no gradient, no state, no memory, and the same bits after a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from precis.train import make_step, trainable, value_and_grad
from precis.tree import named_leaves, nbytes


def params_of(layers=3, dim=8):
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "embed": {"table": jax.random.normal(keys[0], (10, dim))},
        "blocks": {"kernel": jax.random.normal(keys[1], (layers, dim, dim)) / dim**0.5},
        "head": {"kernel": jax.random.normal(keys[2], (dim, 10)), "bias": jnp.zeros(10)},
        "steps": jnp.int32(7),
    }


def loss(params, batch):
    x = params["embed"]["table"][batch]
    x, _ = lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, params["blocks"]["kernel"])
    return jnp.mean((x @ params["head"]["kernel"] + params["head"]["bias"]) ** 2)


BATCH = jnp.arange(6)


@pytest.mark.parametrize(
    ("patterns", "trained"),
    [
        (["**"], ["blocks/kernel", "embed/table", "head/bias", "head/kernel"]),
        (["head/*"], ["head/bias", "head/kernel"]),
        (["**", "!embed/**", "!**/bias"], ["blocks/kernel", "head/kernel"]),
        (["!head/**", "head/bias"], ["blocks/kernel", "embed/table", "head/bias"]),
    ],
)
def test_patterns_choose_and_the_parts_make_the_whole(patterns, trained):
    params = params_of()
    parts = trainable(patterns)
    split = parts.split(params)
    assert list(split.trained) == trained
    assert {**split.trained, **split.frozen}.keys() == named_leaves(params).keys()
    merged = parts.merge(params, split.trained)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (merged, params)), strict=True))


def test_gradients_are_those_of_the_whole():
    params = {k: x for k, x in params_of().items() if k != "steps"}
    _, some = value_and_grad(loss, "mixed_bf16", trainable=trainable(["head/**"]))(params, BATCH)
    _, every = value_and_grad(loss, "mixed_bf16")(params, BATCH)
    assert list(some) == ["head/bias", "head/kernel"]
    for path, grad in some.items():
        np.testing.assert_array_equal(grad, named_leaves(every)[path])


@pytest.mark.world
@pytest.mark.parametrize("policy", ["mixed_f16", "bf16; embed/**: p=f32"])
def test_a_step_moves_the_trained_parameters_only(policy):
    step = make_step(loss, optax.adam(0.1), policy, trainable=["head/**"], clip=1.0)
    before = step.init(params_of())
    after, metrics = step(before, BATCH)
    old, new = named_leaves(before.params), named_leaves(after.params)
    assert jax.tree.structure(after.params) == jax.tree.structure(before.params)
    for path, leaf in old.items():
        assert leaf.dtype == new[path].dtype
        assert bool((leaf == new[path]).all()) is not path.startswith("head"), path
    assert metrics["finite"]
    # Adam's two moments and counters, and those of a loss scale: nothing of what is frozen.
    trained = sum(nbytes(leaf) for path, leaf in old.items() if path.startswith("head"))
    assert nbytes(after.opt_state) <= 2 * trained + 100


def test_freezing_saves_gradients_residuals_and_moments():
    shapes = jax.eval_shape(lambda: params_of(layers=8, dim=256))
    batch = jax.ShapeDtypeStruct((256,), jnp.int32)
    frozen = nbytes(shapes["blocks"]) + nbytes(shapes["embed"])

    def bytes_of(patterns):
        step = make_step(loss, optax.adam(0.1), "f32", trainable=patterns, jit=False)
        state = jax.eval_shape(step.init, shapes)
        memory = jax.jit(step.update).lower(state, batch, None).compile().memory_analysis()
        return (
            nbytes(state.opt_state),
            memory.argument_size_in_bytes,
            memory.temp_size_in_bytes,
        )

    all_state, all_arguments, all_temporaries = bytes_of(["**"])
    state, arguments, temporaries = bytes_of(["head/**"])
    assert all_state - state == 2 * frozen
    assert all_arguments - arguments == 2 * frozen
    # Nor a gradient, nor what a gradient of the blocks would need of their activations.
    assert all_temporaries - temporaries > nbytes(shapes["blocks"]) + 8 * 256 * 256 * 4
    assert temporaries < nbytes(shapes["blocks"])


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ("head/**", TypeError, "wants a list of patterns, got the text 'head/"),
        ([], ValueError, "at least one pattern"),
        (["haed/**"], ValueError, r"'haed/\*\*' matches no float parameter; did you mean 'head/"),
        (["steps"], ValueError, "'steps' matches no float parameter"),
        (["**", "!**"], ValueError, r"freezes all of 5 parameters"),
    ],
)
def test_what_trains_nothing_is_refused(patterns, error, message):
    with pytest.raises(error, match=message):
        trainable(patterns).split(params_of())
