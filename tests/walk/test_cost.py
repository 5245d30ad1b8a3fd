"""What a policy costs in the compiled program, beside the same casts written by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from precis.walk import autocast

from .laws import EXACT

LAYERS, WIDTH, ROWS = 12, 128, 64
X = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
W = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32)


def plain(w, x):
    h, _ = lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), x, w)
    return jnp.mean(h**2)


def low(x):
    return x.astype(jnp.bfloat16)


@jax.custom_vjp
def dot(x, w):
    return low(lax.dot(x, low(w), preferred_element_type=jnp.float32))


def backward(saved, g):
    x, w = saved
    wide = {"preferred_element_type": jnp.float32}
    dx = lax.dot_general(g, low(w), (((1,), (1,)), ((), ())), **wide)
    return low(dx), lax.dot_general(x, g, (((0,), (0,)), ((), ())), **wide)


dot.defvjp(lambda x, w: (dot(x, w), (x, w)), backward)


def by_hand(w, x):
    def layer(h, w):
        return low(h + low(jnp.tanh(dot(h, w).astype(jnp.float32)))), None

    h, _ = lax.scan(layer, low(x), w)
    return jnp.mean(h.astype(jnp.float32) ** 2)


@pytest.fixture(scope="module")
def programs():
    def compiled(fn):
        return jax.jit(jax.value_and_grad(fn), compiler_options=EXACT).trace(W, X)

    return {"ours": compiled(autocast(plain, "mixed_bf16")), "theirs": compiled(by_hand)}


def test_the_same_dots(programs):
    count = {
        name: traced.lower(lowering_platforms=("cuda",)).as_text().count("stablehlo.dot_general")
        for name, traced in programs.items()
    }
    assert count == {"ours": 3, "theirs": 3}


@pytest.mark.world
def test_no_copy_of_all_parameters_in_few_bits(programs):
    ours = programs["ours"].lower().compile()
    assert f"bf16[{LAYERS},{WIDTH},{WIDTH}]" not in ours.as_text()
    # The stacked activations and gradients, and a layer's worth of scratch.
    parameters, stacked = 4 * LAYERS * WIDTH**2, 4 * LAYERS * ROWS * WIDTH
    assert ours.memory_analysis().temp_size_in_bytes < parameters + 4 * stacked


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="counts what CPU accesses")
def test_no_more_bytes(programs):
    ours, theirs = (programs[name].lower().compile() for name in ("ours", "theirs"))
    accessed = [program.cost_analysis()["bytes accessed"] for program in (ours, theirs)]
    assert accessed[0] <= 1.03 * accessed[1]
    temporaries = [p.memory_analysis().temp_size_in_bytes for p in (ours, theirs)]
    assert temporaries[0] <= 1.03 * temporaries[1]
