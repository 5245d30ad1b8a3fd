"""`Kernel`: its arrays move with the weight, and it stands for the weight before smoothing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.quant import Kernel, dequantize, is_stored, open_stored, quantize, quantize_array
from precis.tree import static_facts
from tests.draws import normal

W = normal(0, 3, 8, 6)
BY = jnp.asarray(np.random.default_rng(1).uniform(1, 2, (3, 8, 1)), jnp.float32)


@pytest.fixture
def kernel():
    return Kernel(
        quantize_array(W * BY, "int8"),
        input_amax=jnp.float32([1, 2, 3]).reshape(3, 1, 1),
        smoothing=BY,
        outliers=2,
    )


MOVES = {
    "transpose": lambda x: x.transpose(0, 2, 1),
    "one layer": lambda x: x[1],
    "some outputs": lambda x: x[:, :, 1:4],
    "reshape": lambda x: x.reshape(3, 8, 2, 3),
    "take": lambda x: x.take(jnp.array([2, 0]), axis=0),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_algebra_is_that_of_the_array(kernel, name):
    moved = jax.jit(MOVES[name])(kernel)
    np.testing.assert_array_equal(dequantize(moved), MOVES[name](dequantize(kernel)))
    assert moved.outliers == 2
    assert moved.input_amax.ndim == moved.smoothing.ndim == moved.ndim


def test_it_stands_for_the_weight_before_smoothing(kernel):
    assert (kernel.shape, kernel.ndim, kernel.dtype) == (W.shape, 3, W.dtype)
    np.testing.assert_allclose(open_stored(kernel), W, atol=0.03)
    assert kernel.nbytes == kernel.weight.nbytes + 4 * 3 + 4 * 24


def test_layers_of_a_stack_are_scanned(kernel):
    rows = jax.lax.scan(lambda c, k: (c, open_stored(k)), 0, kernel)[1]
    np.testing.assert_array_equal(rows, dequantize(kernel))


def test_trees_keep_it_whole(kernel):
    tree = {"w": kernel, "kernel": W[0]}
    assert quantize(tree, "int8")["w"] is kernel
    assert is_stored(kernel)
    assert static_facts(tree)["w"] == {
        **kernel.weight.static_facts,
        "outliers": 2,
        "threshold": 6.0,
    }
    with pytest.raises(TypeError, match="dequantize"):
        jnp.sin(kernel)


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_a_tangent_moves_along_and_takes_the_gradient(kernel, move):
    def opened(tangent):
        moved = move(replace(kernel, tangent=tangent))
        out = open_stored(moved)
        assert moved.tangent.shape == out.shape
        return out

    out, pull = jax.vjp(opened, jnp.zeros(W.shape))
    np.testing.assert_array_equal(out, move(open_stored(kernel)))
    weights = jnp.arange(out.size, dtype=jnp.float32).reshape(out.shape)
    (want,) = jax.vjp(move, jnp.zeros(W.shape))[1](weights)
    np.testing.assert_array_equal(pull(weights)[0], want)
