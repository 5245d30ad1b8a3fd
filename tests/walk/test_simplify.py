"""A traced function without converts that change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.walk.simplify import simplified

X = jnp.bfloat16([1.0, 1.0078125, -3.140625, 65280.0])


def names(fn, *args):
    return [eqn.primitive.name for eqn, _ in simplified(jax.make_jaxpr(fn)(*args)).steps]


def wide(x):
    return x.astype(jnp.float32)


def test_a_value_is_widened_once():
    assert names(lambda x: wide(x) * wide(x), X) == ["convert_element_type", "mul"]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_widened_and_narrowed_is_nothing_at_all(dtype):
    assert names(lambda x: wide(x).astype(dtype), X.astype(dtype)) == []


def test_narrowed_and_widened_is_a_rounding():
    assert names(lambda x: wide(x.astype(jnp.bfloat16)), wide(X)) == ["convert_element_type"] * 2


def test_from_one_16_bit_dtype_to_the_other_is_one_too():
    assert names(lambda x: wide(x).astype(jnp.float16), X) == ["convert_element_type"] * 2


def test_what_no_result_depends_on_is_left_out_and_its_arguments_are_not_needed():
    def fn(x, y):
        jnp.sin(y)
        return x * 2, jnp.cos(x)

    straight = simplified(jax.make_jaxpr(lambda x, y: fn(x, y)[0])(wide(X), wide(X)))
    assert [eqn.primitive.name for eqn, _ in straight.steps] == ["mul"]
    assert straight.needed == {0}
    np.testing.assert_array_equal(straight([wide(X), None])[0], 2 * wide(X))


def test_arguments_that_are_the_same_are_read_once():
    straight = simplified(jax.make_jaxpr(lambda x, y: wide(x) * wide(y))(X, X), (0, 0))
    assert len(straight.steps) == 2
    assert straight.needed == {0}
    np.testing.assert_array_equal(straight([X, None])[0], wide(X) ** 2)


def test_results_are_those_of_the_function():
    def fn(x, y):
        low = (wide(x) * y).astype(jnp.bfloat16)
        return low, wide(low) + wide(x), 1.0, x, jax.nn.relu(y)

    args = X, wide(X) / 3
    for got, want in zip(simplified(jax.make_jaxpr(fn)(*args))(args), fn(*args), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.world
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_pinned_no_rounding_is_left_out(dtype):
    x = jax.random.normal(jax.random.key(0), (256,))

    def fn(x):
        low = lambda x: x.astype(dtype)  # noqa: E731
        y = low(x)
        return jax.vjp(lambda y: wide(low(wide(y) * 1.1)) * wide(low(wide(y) * 1.3)), y)[1](x)[0]

    straight = simplified(jax.make_jaxpr(fn)(x))
    got = jax.jit(lambda x: straight([x], pinned=True)[0])(x)
    np.testing.assert_array_equal(got, fn(x))  # op by op
