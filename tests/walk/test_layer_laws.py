"""The law layer by layer: an emulated format equals its native twin, bit for bit."""

import jax
import jax.numpy as jnp
import pytest
from jax.dtypes import float0

from precis.walk import autocast

from .laws import EXACT, UNOPTIMIZED, assert_same, compiled
from .layers import cases


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != float0]


def gradients(case, name, pair):
    """Of a loss of one layer, under each of two formats: functions, and what to call them on."""
    run, params, x = case(name)
    loss = lambda p, x: jnp.mean(run(p, x) ** 2)  # noqa: E731
    return [jax.value_and_grad(autocast(loss, f"c={c},o=f32"), allow_int=True) for c in pair], (
        params,
        x,
    )


def are_same(got, want):
    try:
        assert_same(floats(got), floats(want))
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(("case", "name"), list(cases({"mlp"})))
def test_bfloat16_through_a_layer(case, name):
    """Compiled: what XLA's CPU leaves out before a sum, it leaves out with its optimizer or not.

    With it, XLA may sum a row of one side in another order. Without it, LLVM may contract a
    multiply-add of one side, such as tanh's 1 - y * y. One of the two ways must give equal bits.
    """
    with jax.numpy_dtype_promotion("standard"):  # flax and equinox rely on it
        both, args = gradients(case, name, ("bf16", "e8m7"))
        ways = ([compiled(fn, options)(*args) for fn in both] for options in (UNOPTIMIZED, EXACT))
        assert any(are_same(emulated, native) for native, emulated in ways)


@pytest.mark.parametrize(("case", "name"), list(cases({"mlp", "Conv strided and grouped"})))
def test_float16_through_a_layer_op_by_op(case, name):
    """Not jitted: compiled as one, LLVM joins some of float16's multiplications and additions."""
    with jax.numpy_dtype_promotion("standard"):
        both, args = gradients(case, name, ("f16", "e5m10"))
        native, emulated = (fn(*args) for fn in both)
    assert_same(floats(emulated), floats(native))
