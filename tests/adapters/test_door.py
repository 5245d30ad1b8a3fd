"""What `bind` refuses, whichever the library."""

import jax
import pytest
from flax import nnx

from precis.adapters import bind
from tests.adapters.twins import Nnx, X

pytestmark = pytest.mark.world


def test_a_class_is_no_module():
    with pytest.raises(TypeError, match="got the class Nnx: make one first"):
        bind(Nnx)


def test_other_things_are_no_module():
    with pytest.raises(TypeError, match="a linen or nnx module, got dict"):
        bind({})


@pytest.mark.parametrize("extra", [{"key": jax.random.key(0)}, {"train": "train"}, {"x": 1}])
def test_an_nnx_module_needs_nothing_else(extra):
    with pytest.raises(TypeError, match=r"bind\(module\) takes nothing else"):
        bind(Nnx(rngs=nnx.Rngs(0)), **extra)


def test_an_nnx_module_needs_no_example():
    with pytest.raises(TypeError, match=r"bind\(module\) takes nothing else"):
        bind(Nnx(rngs=nnx.Rngs(0)), X)
