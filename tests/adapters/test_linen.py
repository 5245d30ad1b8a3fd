"""What only linen modules have: a train argument by name, collections, weights to be drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from precis.adapters import bind
from tests.adapters.twins import Linen, X

pytestmark = pytest.mark.world
KEY = jax.random.key(0)


class Inverted(linen.Module):
    @linen.compact
    def __call__(self, x, deterministic):
        return linen.Dropout(0.5)(x, deterministic=deterministic)


class OwnStream(linen.Module):
    @linen.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


class Grows(linen.Module):
    @linen.compact
    def __call__(self, x):
        if not self.is_initializing():
            self.variable("cache", "late", jnp.zeros, ())
        self.variable("cache", "early", jnp.zeros, ())
        return x


class Sows(linen.Module):
    @linen.compact
    def __call__(self, x):
        self.sow("intermediates", "x", x)
        return x


def test_weights_are_what_init_draws_for_any_example():
    # Jitted and not, the same: no multiplication is reassociated in drawing them.
    params, _, _ = bind(linen.Dense(4), X, key=KEY)
    again, _, _ = bind(linen.Dense(4), np.ones((1, 3), np.float32), key=KEY)
    other, _, _ = bind(linen.Dense(4), X, key=jax.random.key(1))
    np.testing.assert_array_equal(params["kernel"], again["kernel"])
    assert (params["kernel"] != other["kernel"]).any()


def test_an_abstract_key_gives_shapes_and_the_same_function():
    params, state, apply = bind(Linen(), X, key=KEY, train="train")
    shapes = bind(Linen(), X, key=jax.eval_shape(jax.random.key, 0), train="train")
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    assert shapes.params == abstract
    np.testing.assert_array_equal(shapes.apply(params, state, X)[0], apply(params, state, X)[0])


def test_deterministic_means_the_opposite_of_train():
    _, state, apply = bind(Inverted(), X, key=KEY, train="deterministic")
    np.testing.assert_array_equal(apply({}, state, X, key=KEY)[0], X)
    dropped, _ = apply({}, state, X, key=KEY, train=True)
    assert (np.asarray(dropped) == 0).any()


def test_streams_of_any_name_are_fed():
    _, state, apply = bind(OwnStream(), X, key=KEY)
    a, b = (apply({}, state, X, key=jax.random.key(seed))[0] for seed in (1, 2))
    assert (a != b).any()
    with pytest.raises(ValueError, match="got no key"):
        apply({}, state, X)


def test_what_is_sown_is_not_state():
    _, state, apply = bind(Sows(), X, key=KEY)
    assert state == {}
    assert apply({}, state, X)[1] == {}


def test_a_state_that_grows_is_refused():
    _, state, apply = bind(Grows(), X, key=KEY)
    with pytest.raises(ValueError, match=r"gained \['cache/late'\]"):
        apply({}, state, X)


def test_a_key_is_asked_for():
    with pytest.raises(TypeError, match=r"Linen is a linen module and has no weights yet.*key="):
        bind(Linen(), X, train="train")


def test_a_forgotten_train_argument_is_named():
    with pytest.raises(TypeError, match=r"takes 'train': say bind\(\.\.\., train='train'\)"):
        bind(Linen(), X, key=KEY)


def test_a_fixed_train_argument_is_left_alone():
    bound = bind(linen.BatchNorm(), X, key=KEY, use_running_average=False)
    assert sorted(bound.params) == ["bias", "scale"]


def test_a_misspelt_train_argument_has_its_nearest_named():
    with pytest.raises(TypeError, match=r"no argument 'trian'; did you mean 'train'\?"):
        bind(Linen(), X, key=KEY, train="trian")
