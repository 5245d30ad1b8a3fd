"""A tangent is rounded like its value, where a linear op does that."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from precis.formats import cast_to, parse_float
from precis.ops import cast_with_tangent

# Over all of float16's range and beyond, its subnormals included; the largest overflows in it.
X = np.float32(np.random.default_rng(0).normal(size=4096) * 2.0 ** np.arange(-30, 34).repeat(64))


def pushed(text, x):
    fmt = parse_float(text)
    return jax.jit(lambda x: jax.jvp(lambda x: cast_with_tangent(x, fmt), (x,), (x[::-1],)))(x)


@pytest.mark.parametrize(("text", "dtype"), [("e8m7", ml_dtypes.bfloat16), ("e5m10", np.float16)])
def test_value_and_tangent_are_those_of_the_dtype(text, dtype):
    with np.errstate(over="ignore"):
        want = X.astype(dtype).astype(np.float32)
    value, tangent = pushed(text, X)
    np.testing.assert_array_equal(value, want)
    np.testing.assert_array_equal(tangent, want[::-1])


def test_more_bits_of_fraction():
    value, tangent = pushed("e8m10", X)
    np.testing.assert_array_equal(value, tangent[::-1])
    assert (value != X).any()


def test_other_tangents_stay_as_they_are():
    value, tangent = pushed("e4m3", X)
    np.testing.assert_array_equal(value, cast_to(jnp.asarray(X), "e4m3"))
    np.testing.assert_array_equal(tangent, X[::-1])


@pytest.mark.parametrize("text", ["e8m7", "e5m10"])
def test_it_transposes(text):
    cotangent = jax.grad(lambda x: (cast_with_tangent(x, parse_float(text)) * X).sum())(X)
    np.testing.assert_array_equal(cotangent, pushed(text, X)[0])
