"""What only nnx modules have: mutable leaves, modes, generators, lists, abstract modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from precis.adapters import bind, unbind
from precis.tree import leaves_with_paths
from tests.adapters.twins import Nnx, X

pytestmark = pytest.mark.world
KEY = jax.random.key(0)


class Blocks(nnx.Module):
    def __init__(self, rngs):
        blocks = [nnx.Linear(3, 3, rngs=rngs) for _ in range(2)]
        # Older versions take plain lists for what newer ones want declared.
        self.blocks = nnx.List(blocks) if hasattr(nnx, "List") else blocks
        self.same = self.blocks[0]

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.same(x)


class Stack(nnx.Module):
    """Two layers with dropout, stacked along a first axis and run by a scan."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=2)
        @nnx.vmap
        def make(rngs):
            return nnx.Dropout(0.5, rngs=rngs)

        self.layers = make(rngs)

    def __call__(self, x):
        graphdef, layers = nnx.split(self.layers)
        run = lambda x, layer: (nnx.merge(graphdef, layer)(x), x)  # noqa: E731
        return jax.lax.scan(run, x, layers)[0]


class Sows(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        self.sow(nnx.Intermediate, "seen", x)
        return self.linear(x)


class Grows(nnx.Module):
    def __call__(self, x):
        self.late = nnx.BatchStat(jnp.zeros(()))
        return x


class Breaks(nnx.Module):
    def __call__(self, x):
        raise TypeError("of my own")


def test_lists_have_string_keys_and_shared_parameters_come_once():
    module = Blocks(nnx.Rngs(0))
    params, state, apply = bind(module)
    assert [path for path, _ in leaves_with_paths(params)] == [
        f"blocks/{i}/{name}" for i in "01" for name in ("bias", "kernel")
    ]
    first, second = (np.asarray(params["blocks"][i]["kernel"], np.float64) for i in "01")
    np.testing.assert_allclose(apply(params, state, X)[0], X @ first @ second @ first, rtol=1e-4)
    again = unbind(bind(module))
    assert again.same is again.blocks[0]


def test_stacked_generators_each_get_a_key():
    params, state, apply = bind(Stack(nnx.Rngs(0)))
    call = lambda key: apply(params, state, jnp.ones((64, 3)), key=key, train=True)[0]  # noqa: E731
    # 1 is doubled or dropped by each layer; with one mask for both, half would be 4.
    assert 0.1 < np.mean(np.asarray(call(KEY)) == 4) < 0.4
    assert (call(KEY) != call(jax.random.key(1))).any()
    with pytest.raises(ValueError, match="got no key"):
        call(None)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
def test_what_is_sown_is_not_state():
    module = Sows(nnx.Rngs(0))
    module(X)
    params, state, apply = bind(module)
    assert state == {}
    assert apply(params, state, X)[1] == {}
    assert hasattr(module, "seen"), "the module given is left as it is"


def test_a_state_that_grows_is_refused():
    with pytest.raises(ValueError, match=r"gained \['late'\]"):
        bind(Grows()).apply({}, {}, X)


def test_modes_of_the_module_are_left_alone():
    module = Nnx(rate=0.5, rngs=nnx.Rngs(0))
    module.train()
    params, state, apply = bind(module)
    np.testing.assert_array_equal(apply(params, state, X)[0], apply(params, state, X)[0])
    assert module.drop1.deterministic is False
    assert unbind(bind(module)).drop1.deterministic is False


def test_the_returned_module_draws_as_the_given_one_would():
    module = Nnx(rate=0.5, rngs=nnx.Rngs(3))
    module.train()
    again = unbind(bind(module))
    np.testing.assert_array_equal(again(X), module(X))


def test_an_abstract_module_gives_the_same_function():
    params, state, apply = bind(Nnx(rngs=nnx.Rngs(0)))
    _, _, abstract = bind(nnx.eval_shape(lambda: Nnx(rngs=nnx.Rngs(0))))
    np.testing.assert_array_equal(abstract(params, state, X)[0], apply(params, state, X)[0])


def test_a_tree_that_lacks_something_is_refused_by_its_path():
    params, state, apply = bind(Nnx(rngs=nnx.Rngs(0)))
    del params["last"]["kernel"]
    with pytest.raises(ValueError, match="the module has 'last/kernel'"):
        apply(params, state, X)


def test_errors_of_the_module_pass_as_they_are():
    with pytest.raises(TypeError, match="of my own"):
        bind(Breaks()).apply({}, {}, X)
