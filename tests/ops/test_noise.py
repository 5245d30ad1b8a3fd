"""Stochastic operands: what they come to on average, which draws are shared and which are not."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.formats import parse, round_to
from precis.ops import Operand, Roles, matrix_op
from tests.draws import normal

from .test_matrix import op_of

KEY = jax.random.key(0)
EYE = jnp.asarray(np.eye(16, dtype=np.float32))
F32 = parse("f32")


def roles_of(lhs="f32", rhs="f32", grad="f32", grad_for_weight=None, *, is_weight=True):
    return Roles(
        Operand(parse(lhs), F32, is_weight=False),
        Operand(parse(rhs), F32, is_weight=is_weight),
        F32,
        F32,
        parse(grad),
        parse(grad_for_weight or grad),
    )


@functools.partial(jax.jit, static_argnames="roles")
def pulled(x, w, g, key, roles):
    """The product, and the cotangents of its operands."""
    op = op_of(lax.dot, x, w)
    y, pull = jax.vjp(lambda x, w: matrix_op(op, x, w, roles=roles, noise=key), x, w)
    return (y, *pull(g))


def reach(widths):
    """How far the mean of independent draws may be from what they have on average.

    Hoeffding: it is further with probability 2 exp(-2 t² / Σ widths²), here 1e-9, for the sum of
    draws that each lie in an interval of such a width. Two values may share a random word, so
    that each draw is counted with its neighbor: twice as wide, and half as many.
    """
    return math.sqrt(2 * float(np.sum(np.square(widths))) * math.log(2e9) / 2)


def test_operands_are_rounded_independently():
    # Were both rounded with the same bits, the mean would be that of squares, 1.28125.
    x = jnp.full((256, 256), 1.125)
    rows = lambda x, y: lax.dot_general(x, y, (((1,), (1,)), ((0,), (0,))))  # noqa: E731
    roles = roles_of("e5m2(stochastic)", "e5m2(stochastic)")
    sums = matrix_op(op_of(rows, x, x), x, x, roles=roles, noise=KEY)
    mean = float(np.asarray(sums, np.float64).sum()) / x.size
    bound = reach(np.full(x.size, 1.25**2 - 1)) / x.size
    assert abs(mean - 1.125**2) < bound < 0.0156


@pytest.mark.parametrize(
    "name", ["e5m2(stochastic)", "int8(stochastic)@tensor", "int8(stochastic)"]
)
def test_gradients_have_the_mean_of_those_that_were_not_rounded(name):
    keys = jax.random.split(KEY, 1024)
    x, w = 1 + jnp.abs(normal(1, 8, 4)), 1 + jnp.abs(normal(2, 4, 6))
    # All of it lies below the middle between two neighbors: to the nearest, it would lose 4%.
    g = jnp.full((8, 6), 1.05).at[0, 0].set(1.75) if name[0] == "e" else normal(3, 8, 6)
    run = jax.jit(jax.vmap(lambda key: pulled(x, w, g, key, roles_of(grad=name))[1:]))
    means = [np.asarray(d, np.float64).mean(0) for d in run(keys)]
    wide = [np.asarray(a, np.float64) for a in (x, w, g)]
    wants = wide[2] @ wide[1].T, wide[0].T @ wide[2]
    # The step of the coarsest group; scales are those of rows, columns or all of g.
    step = 0.25 if name[0] == "e" else float(jnp.abs(g).max()) / 127
    widest = [np.abs(wide[1]).max(1)[None] * np.ones((8, 4)), np.ones((4, 6)) * wide[0].max()]
    for mean, want, factor, terms in zip(means, wants, widest, (6, 8), strict=True):
        bound = reach(np.full(terms * len(keys), step)) / len(keys)
        assert (np.abs(mean - want) < bound * factor).all()
    if name[0] == "e":
        nearest = pulled(x, w, g, None, roles_of(grad="e5m2"))[2]
        assert (np.abs(nearest - wants[1]) > bound * factor).all()


@pytest.mark.parametrize("is_weight", [True, False])
def test_backward_products_take_the_operands_that_the_forward_product_drew(is_weight):
    # A product with the identity shows the other operand as it was rounded.
    x, name = normal(4, 16, 16), "e4m3(stochastic)"
    roles = roles_of(name, name, is_weight=is_weight)
    y, _, dw = pulled(x, EYE, EYE, KEY, roles)
    np.testing.assert_array_equal(dw, y.T)
    assert (y != round_to(x, "e4m3")).any()
    y, dx, _ = pulled(EYE, x, EYE, KEY, roles)
    np.testing.assert_array_equal(dx, y.T)
    scaled = roles_of("int8(stochastic)@tensor", "int8(stochastic)@tensor", is_weight=is_weight)
    y, _, dw = pulled(x, EYE, EYE, KEY, scaled)
    # Codes times their scale in one order or the other.
    np.testing.assert_allclose(dw, y.T, rtol=2.0**-22)
    assert (np.abs(y - x) > 0.5001 * np.abs(x).max() / 127).any()


def test_a_cotangent_is_drawn_once_unless_it_is_scaled_for_each_product():
    g = normal(5, 16, 16)
    _, dx, dw = pulled(EYE, EYE, g, KEY, roles_of(grad="e4m3(stochastic)"))
    np.testing.assert_array_equal(dx, dw)
    _, dx, dw = pulled(EYE, EYE, g, KEY, roles_of(grad="int8(stochastic)@tensor"))
    assert 0.2 < (dx != dw).mean() < 0.6  # of two draws, a third differs on average
    whole = "int8(stochastic)@tensor"
    _, dx, dw = pulled(g, g, EYE, KEY, roles_of(whole, whole, whole))
    y = pulled(g, EYE, EYE, KEY, roles_of(whole))[0]
    # Operands that are brought onto their grids anew are drawn anew.
    assert all(0.2 < (a != b).mean() < 0.6 for a, b in [(dx.T, dw.T), (dw.T, y), (dx.T, y)])


def test_two_formats_of_one_cotangent_are_drawn_independently():
    # 17/16 lies between 1 and 5/4, and between 1 and 9/8: with one draw for both, dw would be at
    # the upper neighbor wherever dx is.
    g = jnp.full((64, 64), 1.0625)
    roles = roles_of(grad="e4m2(stochastic)", grad_for_weight="e4m3(stochastic)")
    eye = jnp.eye(64)
    _, dx, dw = pulled(eye, eye, g, KEY, roles)
    up_x, up_w = np.asarray(dx == 1.25), np.asarray(dw == 1.125)
    assert ((dx == 1) | up_x).all()
    assert ((dw == 1) | up_w).all()
    # Means 1/4, 1/2 and, if independent, 1/8 for both, of 4096 draws: 1/4 with one draw for both.
    means = [up.mean() for up in (up_x, up_w, up_x & up_w)]
    np.testing.assert_allclose(means, (0.25, 0.5, 0.125), rtol=0, atol=reach(np.ones(4096)) / 4096)


def test_a_convolution_and_a_block_format_draw_as_well():
    x, w = normal(6, 1, 8, 8, 32), normal(7, 3, 3, 32, 2)
    conv = lambda x, w: lax.conv_general_dilated(  # noqa: E731
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    name = "e4m3fn(stochastic)@block32"
    roles = roles_of(name, name, name)
    op = op_of(conv, x, w)
    run = jax.jit(lambda key: matrix_op(op, x, w, roles=roles, noise=key))
    first, again, other = (run(key) for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_allclose(first, conv(x, w), atol=2.0**-3 * 9 * 32)


def test_without_a_key_it_says_what_is_missing():
    with pytest.raises(
        ValueError, match="int8\\(stochastic\\) is stochastic and the matrix op wants"
    ):
        pulled(EYE, EYE, EYE, None, roles_of("int8(stochastic)"))
