"""jmp's three verbs, against jmp."""

import jax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest

from precis.formats import round_to
from precis.policy import cast_to_compute, cast_to_output, cast_to_param

TEXT = "params=float32,compute=float16,output=bfloat16"


@pytest.fixture
def tree():
    return {
        "w": jnp.linspace(-70000, 70000, 7, dtype=jnp.float32),
        "h": jnp.ones(3, jnp.bfloat16),
        "n": jnp.arange(3),
        "b": jnp.array([True]),
    }


def same(a, b):
    return a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (cast_to_param, "cast_to_param"),
        (cast_to_compute, "cast_to_compute"),
        (cast_to_output, "cast_to_output"),
    ],
)
def test_equals_jmp(ours, theirs, tree):
    want = getattr(jmp.get_policy(TEXT), theirs)(tree)
    assert jax.tree.all(jax.tree.map(same, ours(TEXT, tree), want))


def test_keys_and_integers_are_untouched():
    tree = {"key": jax.random.key(0), "n": jnp.arange(3)}
    cast = cast_to_compute("bf16", tree)
    assert cast["key"].dtype == tree["key"].dtype
    assert cast["n"].dtype == jnp.int32


def test_a_format_without_a_dtype_rides_on_its_carrier():
    x = jnp.linspace(-3, 3, 101, dtype=jnp.float32)
    cast = cast_to_compute("c=e5m3", x)
    assert cast.dtype == jnp.float32
    np.testing.assert_array_equal(cast, round_to(x, "e5m3"))
