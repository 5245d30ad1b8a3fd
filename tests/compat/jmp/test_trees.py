"""Trees are chosen and looked at as jmp does it."""

import jax
import jax.numpy as jnp
import jmp as theirs
import numpy as np
import pytest

from precis.compat import jmp as ours
from tests.compat.jmp.same import bits

F16, F32 = jnp.float16, jnp.float32
TRUE, FALSE = jnp.bool_(True), jnp.bool_(False)


def test_trees_are_selected_bit_for_bit():
    a = {"w": jnp.float32([-0.0, np.nan, 1e-40]), "n": jnp.int32(1)}
    b = {"w": jnp.float32([0.0, 2.0, 3.0]), "n": jnp.int32(2)}
    for pred, wanted in [(TRUE, a), (FALSE, b)]:
        assert bits(jax.jit(ours.select_tree)(pred, a, b)) == bits(wanted)
        assert bits(ours.select_tree(pred, a, b)) == bits(theirs.select_tree(pred, a, b))
    assert bits(ours.select_tree(True, a, b)) == bits(a)
    with pytest.raises(TypeError):
        ours.select_tree(TRUE, F32(1.0), F16(1.0))


def test_anything_else_than_one_boolean_is_refused():
    for pred in (F32(1.0), jnp.array([True])):
        with pytest.raises(ValueError, match="expected boolean scalar"):
            ours.select_tree(pred, 1, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_seen(bad):
    good = {"a": jnp.ones(70_000), "b": [F16(1.0), jnp.int32(3)], "c": None}
    for tree, finite in [(good, True), (good | {"a": good["a"].at[65_432].set(bad)}, False)]:
        assert bool(jax.jit(ours.all_finite)(tree)) is finite
        assert bool(theirs.all_finite(tree)) is finite


def test_keys_and_python_numbers_are_finite():
    assert bool(ours.all_finite({"key": jax.random.key(0), "n": 3, "x": 1.0, "z": 1j}))
    assert not bool(ours.all_finite({"n": 3, "z": jnp.complex64(complex(0, np.inf))}))
