"""What a backward pass keeps: the same gradients, and less memory the less is saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import precis
from precis.models.saves import WORDS

LAYERS, DIM, BATCH = 8, 128, 256


def layer(x, w):
    h = jax.nn.gelu(checkpoint_name(x @ w["up"], "up"))
    return x + jnp.tanh(h @ w["down"]), None


def loss_saving(save):
    body = layer if save is None else precis.remat(layer, save)
    return lambda weights, x: jnp.mean(lax.scan(body, x, weights)[0] ** 2)


def weights_of(layers=LAYERS, dim=DIM):
    keys = jax.random.split(jax.random.key(0), 3)
    up, down = (jax.random.normal(k, (layers, dim, 4 * dim)) / dim**0.5 for k in keys[:2])
    return {"up": up, "down": down.transpose(0, 2, 1) / 4}, jax.random.normal(keys[2], (BATCH, dim))


def temporaries(policy):
    """Bytes that a gradient needs: saving what it likes, products, a name, nothing."""
    shapes = jax.eval_shape(weights_of)

    def one(save):
        gradient = precis.value_and_grad(loss_saving(save), policy)
        return jax.jit(gradient).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    return [one(save) for save in (None, "dots", ["up"], "nothing")]


# A layer's residual stream has BATCH · DIM floats, its hidden values four times as many. One
# layer's scratch is no more than these and comes on top.
STREAM, HIDDEN = (4 * BATCH * DIM * n for n in (1, 4))


@pytest.mark.world
def test_memory_falls_with_what_is_saved():
    unsaved, dots, names, nothing = temporaries("f32")
    assert unsaved - dots > (LAYERS - 1) * HIDDEN
    assert dots - names > (LAYERS - 2) * STREAM
    assert names - nothing > (LAYERS - 2) * HIDDEN


@pytest.mark.world
def test_in_sixteen_bits_saving_nothing_still_saves_most():
    # Without remat, stretches of 16-bit ops keep little but results of products already; which of
    # the other words keeps less is the backend's to say.
    *others, nothing = temporaries("mixed_bf16")
    assert min(others) - nothing > (LAYERS - 2) * HIDDEN / 2


@pytest.mark.parametrize(
    "save",
    [["up"], *(pytest.param(s, marks=pytest.mark.nightly) for s in ("nothing", "dots"))],
)
def test_gradients_are_those_without(save):
    args = weights_of(layers=2, dim=16)
    got = jax.jit(precis.value_and_grad(loss_saving(save), "mixed_bf16"))(*args)
    want = jax.jit(precis.value_and_grad(loss_saving(None), "mixed_bf16"))(*args)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        # What is computed anew is rounded alike; float32 sums may run in another order.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("save", [*WORDS, "dots_with_no_batch_dims_saveable"])
def test_every_word_is_one_of_jax_s(save):
    weights = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 4))}
    assert precis.remat(layer, save)(jnp.ones((2, 4)), weights)[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("save", "error", "message"),
    [
        ("dot", ValueError, "no policy is called 'dot'; did you mean 'dots'"),
        ("up", ValueError, r"are a list: save=\['up'\]"),
        ([], ValueError, "at least one name"),
        ([1], ValueError, "texts only"),
        (3, TypeError, "a word, a list of names or a policy, got 3"),
    ],
)
def test_what_nobody_can_save_is_refused(save, error, message):
    with pytest.raises(error, match=message):
        precis.remat(layer, save)
