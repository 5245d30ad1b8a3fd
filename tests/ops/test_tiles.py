"""Codes widened a part at a time, against all of them at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.ops import MatrixOp
from precis.ops.tiles import in_tiles, rows_of

DOTS = {
    "rows by columns": ((5, 24), (24, 17), (((1,), (0,)), ((), ()))),
    "two free axes": ((3, 2, 24), (5, 24, 7), (((2,), (1,)), ((), ()))),
    "with a batch": ((2, 3, 24), (2, 24, 17), (((2,), (1,)), ((0,), (0,)))),
}


@pytest.mark.world
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    "name", ["rows by columns", *(pytest.param(n, marks=pytest.mark.nightly) for n in [*DOTS][1:])]
)
def test_parts_make_the_whole(name, side):
    first, second, numbers = DOTS[name]
    if side == 1:
        first, second, numbers = second, first, (numbers[0][::-1], numbers[1][::-1])
    keys = jax.random.split(jax.random.key(0))
    shapes = (first, second) if side == 0 else (second, first)
    # Small integers, so that every order of summation gives the same.
    x = jax.random.randint(keys[0], shapes[0], -8, 9).astype(jnp.bfloat16)
    codes = jax.random.randint(keys[1], shapes[1], -128, 128, jnp.int8)
    pair = [x, codes] if side == 0 else [codes, x]
    wide = [a.astype(jnp.float32) for a in pair]
    (eqn,) = jax.make_jaxpr(lambda a, b: lax.dot_general(a, b, numbers))(*wide).eqns
    op = MatrixOp(eqn.primitive, dict(eqn.params))
    got = jax.jit(lambda x, c: in_tiles(op, x, c, side, part=60))(x, codes)
    np.testing.assert_array_equal(got, lax.dot_general(*wide, numbers))
    free = x.size // 24
    assert rows_of(op, x, side) == free


def test_no_copy_of_the_codes_is_made():
    x = jax.ShapeDtypeStruct((256, 128), jnp.bfloat16)
    codes = jax.ShapeDtypeStruct((128, 4096), jnp.int8)
    zeros = jax.ShapeDtypeStruct((128, 4096), jnp.float32)
    (eqn,) = jax.make_jaxpr(lax.dot)(jax.ShapeDtypeStruct(x.shape, jnp.float32), zeros).eqns
    op = MatrixOp(eqn.primitive, dict(eqn.params))
    run = jax.jit(lambda x, c: in_tiles(op, x, c, 0, part=128 * 256)).lower(x, codes).compile()
    assert "f32[128,4096]" not in run.as_text()
    assert "bf16[128,4096]" not in run.as_text()
