"""value_and_grad under a policy: values, dtypes, scaling, and weight gradients wider than p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.train import value_and_grad


def loss(params, x):
    return jnp.sum(x @ params)


@pytest.fixture
def operands():
    # A column sums to 4 · (1 + 2^-7): nine bits, which bfloat16 does not have.
    return jnp.ones((3, 2)), jnp.full((4, 3), 1 + 2.0**-7, jnp.float32)


def test_equals_jax_under_f32(operands):
    params, x = operands
    value, grads = value_and_grad(loss, "f32")(params, x)
    want_value, want_grads = jax.value_and_grad(loss)(params, x)
    assert value == want_value
    np.testing.assert_array_equal(grads, want_grads)


def test_gradients_have_the_dtype_of_their_parameter(operands):
    params, x = operands
    _, grads = value_and_grad(loss, "bf16")(params.astype(jnp.bfloat16), x)
    assert grads.dtype == jnp.bfloat16


def test_gradients_wider_than_their_parameters(operands):
    params, x = operands
    _, grads = value_and_grad(loss, "p=bf16,c=bf16,o=bf16,w=f32")(params.astype(jnp.bfloat16), x)
    assert grads.dtype == jnp.float32
    np.testing.assert_array_equal(grads, 4 * (1 + 2.0**-7))


def test_the_scale_multiplies_gradients_and_not_the_value(operands):
    params, x = operands
    value, grads = value_and_grad(loss, "mixed_bf16")(params, x)
    same, scaled = value_and_grad(loss, "mixed_bf16")(params, x, scale=jnp.float32(1024))
    assert value == same
    np.testing.assert_array_equal(scaled, 1024 * grads)


def test_a_scale_keeps_small_gradients_alive(operands):
    params, x = operands
    tiny = lambda params, x: jnp.sum((x @ params) ** 2) * 1e-9  # noqa: E731
    _, want = jax.value_and_grad(tiny)(params, x)
    _, flushed = value_and_grad(tiny, "mixed_f16")(params, x)
    _, kept = value_and_grad(tiny, "mixed_f16")(params, x, scale=jnp.float32(2.0**15))
    assert not flushed.any()
    np.testing.assert_allclose(kept / 2.0**15, want, rtol=2e-3)


def test_aux(operands):
    params, x = operands
    (value, aux), _ = value_and_grad(lambda p, x: (loss(p, x), {"n": 3}), "bf16", has_aux=True)(
        params, x
    )
    assert int(aux["n"]) == 3
    assert value.dtype == jnp.float32
