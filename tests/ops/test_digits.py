"""Floats in two int8 digits, bit for bit against integers and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.ops import MatrixOp
from precis.ops.digits import in_digits
from tests.draws import normal

DOTS = {
    "rows by columns": (((1,), (0,)), ((), ())),
    "columns by rows": (((0,), (1,)), ((), ())),
    "with a batch": (((2,), (1,)), ((0,), (0,))),
}
SHAPES = {
    "rows by columns": ((5, 40), (40, 6)),
    "columns by rows": ((40, 5), (6, 40)),
    "with a batch": ((3, 5, 40), (3, 40, 6)),
}


def op_of(numbers, *args):
    (eqn,) = jax.make_jaxpr(lambda a, b: lax.dot_general(a, b, numbers))(*args).eqns
    return MatrixOp(eqn.primitive, dict(eqn.params))


def written(x, axes):
    """What the digits stand for, in float64: rounded halves up, then ties to even."""
    x = np.asarray(x, np.float64)
    largest = np.abs(x).max(axes, keepdims=True)
    scale = 2.0 ** np.ceil(np.log2(largest / 127))
    high = np.floor(x / scale + 0.5)
    low = np.minimum(np.round((x / scale - high) * 256), 127)
    return (high + low / 256) * scale


@pytest.mark.world
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", DOTS)
def test_digits_are_the_floats_but_for_their_last_bits(name, side):
    numbers, shapes = DOTS[name], SHAPES[name]
    shapes, summed = shapes if side == 0 else shapes[::-1], numbers[0][side]
    if side == 1:
        numbers = (numbers[0][::-1], numbers[1])
        summed, shapes = numbers[0][1], shapes
    at = [0, 1] if side == 0 else [1, 0]
    x = normal(0, *shapes[at[0]], scale=37)
    codes = jnp.asarray(np.random.default_rng(1).integers(-128, 128, shapes[at[1]], np.int8))
    pair = (x, codes) if side == 0 else (codes, x)
    floats = [jnp.zeros(a.shape) for a in pair]
    op = op_of(numbers, *floats)
    got = jax.jit(lambda x, c: in_digits(op, x, c, side))(x, codes)
    want = [written(x, summed), np.asarray(codes, np.float64)]
    want = want if side == 0 else want[::-1]
    assert got.shape == jax.eval_shape(lambda a, b: lax.dot_general(a, b, numbers), *floats).shape
    full = np.asarray(_dot64(*want, numbers))
    # Both int32 sums are exact in float32 here, so that two roundings are left: of their sum,
    # and of the second one's product. 40 · 128 · 127 < 2^20 steps of the row.
    np.testing.assert_allclose(got, full, rtol=2.0**-23, atol=2.0**-20 * np.abs(full).max())


def _dot64(a, b, numbers):
    (sa, sb), (ba, bb) = numbers
    letters = "abcdefgh"
    left = list(letters[: a.ndim])
    right = [c.upper() for c in letters[: b.ndim]]
    for i, j in [*zip(sa, sb, strict=True), *zip(ba, bb, strict=True)]:
        right[j] = left[i]
    batch = [left[i] for i in ba]
    free = [c for i, c in enumerate(left) if i not in (*sa, *ba)]
    others = [c for j, c in enumerate(right) if j not in (*sb, *bb)]
    text = f"{''.join(left)},{''.join(right)}->{''.join(batch + free + others)}"
    return np.einsum(text, a, b)


def test_bfloat16_near_the_largest_of_its_row_loses_nothing():
    x = jax.random.uniform(jax.random.key(0), (4, 64), jnp.float32, 0.5, 1.0).astype(jnp.bfloat16)
    codes = jax.random.randint(jax.random.key(1), (64, 8), -127, 128, jnp.int8)
    op = op_of(DOTS["rows by columns"], jnp.zeros(x.shape), jnp.zeros(codes.shape))
    got = jax.jit(lambda x, c: in_digits(op, x, c, 0))(x, codes)
    want = np.asarray(x, np.float64) @ np.asarray(codes, np.float64)
    np.testing.assert_array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible_in_its_row(bad):
    x = jnp.ones((3, 16)).at[1, 5].set(bad)
    codes = jnp.ones((16, 2), jnp.int8)
    op = op_of(DOTS["rows by columns"], jnp.zeros(x.shape), jnp.zeros(codes.shape))
    got = np.asarray(jax.jit(lambda x, c: in_digits(op, x, c, 0))(x, codes))
    assert np.isnan(got[1]).all()
    np.testing.assert_array_equal(got[[0, 2]], 16.0)


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 3e38])
def test_rows_of_any_size(size):
    x = jnp.full((1, 8), size, jnp.float32)
    codes = jnp.ones((8, 2), jnp.int8)
    op = op_of(DOTS["rows by columns"], jnp.zeros(x.shape), jnp.zeros(codes.shape))
    got = np.asarray(jax.jit(lambda x, c: in_digits(op, x, c, 0))(x, codes), np.float64)
    assert np.isfinite(got).all() or size == 3e38
    if size <= 1e-30:
        np.testing.assert_allclose(got, 8 * size, rtol=2.0**-13, atol=2e-36)
