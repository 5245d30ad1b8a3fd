"""value_and_grad under a policy: values, dtypes, scaling, and weight gradients wider than p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

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


def test_the_price_of_gradients_wider_than_their_parameters():
    layers, width = 12, 256
    x = jax.ShapeDtypeStruct((16, width), jnp.float32)

    def deep(params, x):
        return jnp.mean(lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), x, params)[0] ** 2)

    def bytes_per_parameter(policy, dtype):
        params = jax.ShapeDtypeStruct((layers, width, width), dtype)
        program = jax.jit(value_and_grad(deep, policy)).lower(params, x).compile()
        memory = program.memory_analysis()
        total = (
            memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        )
        return total / params.size

    wide = bytes_per_parameter("p=bf16,c=bf16,o=f32,w=f32", jnp.bfloat16)
    stored_wide = bytes_per_parameter("p=f32,c=bf16,o=f32", jnp.float32)
    # 2 + 4 + a copy of 4 against 4 + 4, activations and a layer's scratch being the same.
    assert wide - stored_wide == pytest.approx(2, abs=0.25)


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
