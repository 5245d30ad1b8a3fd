"""Matrix ops with scaled operands, against quantizers written by hand and float64 products.

What an op sums over decides which values share a scale, forward and backward; so each of the
three products has its own quantized operands.
"""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from precis.formats import parse
from precis.ops import CODES, MatrixOp, Operand, Roles, matrix_op

F32 = parse("f32")


def int8(x, axes):
    scale = np.abs(x).max(axes, keepdims=True) * np.float32(1 / 127)
    return np.rint(x * (np.float32(1) / scale)).astype(np.float64) * scale


def mxfp8(x, axes):
    (axis,) = axes
    x = np.moveaxis(x.astype(np.float64), axis, -1)
    blocks = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 32)])
    blocks = blocks.reshape(*x.shape[:-1], -1, 32)
    peak = np.maximum(np.abs(blocks).max(-1, keepdims=True), 1e-30)
    scale = 2.0 ** (np.floor(np.log2(peak)) - 8)
    onto = np.clip(blocks / scale, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    got = (onto.astype(np.float64) * scale).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    return np.moveaxis(got, -1, axis)


def e5m2_tensor(x, axes):
    del axes
    scale = np.abs(x).max() * np.float32(1 / 57344)
    return (x * (np.float32(1) / scale)).astype(ml_dtypes.float8_e5m2).astype(np.float64) * scale


BY_HAND = {"int8": int8, "mxfp8_e4m3": mxfp8, "e5m2@tensor": e5m2_tensor}


def op_of(fn, *args):
    (eqn,) = [
        eqn
        for eqn in jax.make_jaxpr(fn)(*args).eqns
        if eqn.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    return MatrixOp(eqn.primitive, dict(eqn.params))


def roles_of(operand, grad, grad_w=None):
    lhs, rhs = (Operand(parse(operand), F32, is_weight=side == 1) for side in (0, 1))
    return Roles(lhs, rhs, F32, F32, parse(grad), parse(grad_w or grad))


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def close(got, want, terms):
    # Sums of `terms` products of size about 1 in float32.
    np.testing.assert_allclose(got, want, rtol=0, atol=terms * 16 * 2.0**-24)


@pytest.mark.world
@pytest.mark.parametrize("name", BY_HAND)
def test_each_product_quantizes_along_what_it_sums(name):
    x, w, g = normal((40, 48), (48, 33), (40, 33))
    op, at = op_of(lax.dot, x, w), BY_HAND[name]
    run = jax.jit(lambda x, w: matrix_op(op, x, w, roles=roles_of(name, name)))
    y, pull = jax.vjp(run, x, w)
    dx, dw = pull(g)
    close(y, at(x, (1,)) @ at(w, (0,)), 48)
    close(dx, at(g, (1,)) @ at(w, (1,)).T, 33)
    close(dw, at(x, (0,)).T @ at(g, (0,)), 40)


@pytest.mark.parametrize("name", ["int8", "mxfp8_e4m3"])
def test_with_unscaled_cotangents_the_gradient_is_that_of_the_rounded_product(name):
    x, w, g = normal((40, 48), (48, 33), (40, 33))
    at = BY_HAND[name]
    run = lambda x, w: matrix_op(op_of(lax.dot, x, w), x, w, roles=roles_of(name, "bf16"))  # noqa: E731
    _, pull = jax.vjp(run, x, w)
    dx, dw = pull(g)
    low = g.astype(ml_dtypes.bfloat16).astype(np.float64)
    close(dx, low @ at(w, (0,)).T, 33)
    close(dw, at(x, (1,)).T @ low, 40)


@pytest.mark.world
@pytest.mark.parametrize("name", ["int8", "mxfp8_e4m3"])
def test_each_backward_product_goes_by_its_own_cotangent(name):
    x, w, g = normal((40, 48), (48, 33), (40, 33))
    at, low = BY_HAND[name], g.astype(ml_dtypes.bfloat16).astype(np.float64)

    @functools.partial(jax.jit, static_argnums=0)
    def pulled(roles, x, w):
        run = lambda x, w: matrix_op(op_of(lax.dot, x, w), x, w, roles=roles)  # noqa: E731
        return jax.vjp(run, x, w)[1](g)

    dx, dw = pulled(roles_of(name, name, "bf16"), x, w)
    close(dx, at(g, (1,)) @ at(w, (1,)).T, 33)
    close(dw, at(x, (1,)).T @ low, 40)
    dx, dw = pulled(roles_of(name, "bf16", name), x, w)
    close(dx, low @ at(w, (0,)).T, 33)
    close(dw, at(x, (0,)).T @ at(g, (0,)), 40)
    # Without a weight both are inputs' gradients, and gw has no say.
    both = Operand(parse(name), F32, is_weight=False)
    dx, dw = pulled(Roles(both, both, F32, F32, parse(name), parse("bf16")), x, w)
    close(dx, at(g, (1,)) @ at(w, (1,)).T, 33)
    close(dw, at(x, (0,)).T @ at(g, (0,)), 40)


@pytest.mark.world
def test_batched_and_heads():
    # Two summed axes: a channel's scale spans both, blocks run along them as along one axis.
    x, w = normal((2, 5, 4, 16), (4, 16, 7))
    op = op_of(lambda x, w: jnp.einsum("bthd,hdo->bto", x, w), x, w)
    flat = x.reshape(2, 5, 64), w.reshape(64, 7)
    for name, at in (("int8", int8), ("mxfp8_e4m3", mxfp8)):
        want = at(flat[0], (2,)) @ at(flat[1], (0,))
        close(matrix_op(op, x, w, roles=roles_of(name, "bf16")), want, 64)


@pytest.mark.world
@pytest.mark.parametrize("name", ["int8", "mxfp8_e4m3"])
def test_convolutions(name):
    x, w, g = normal((2, 6, 6, 32), (3, 3, 32, 8), (2, 6, 6, 8))

    def conv(x, w):
        names = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=names)

    def wide(x, w):
        # Quantized operands in float64 need no more than float32 to be multiplied: 16 bits each.
        return conv(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32))

    # A scale spans features and window; blocks run along features.
    axes = {"int8": ((1, 2, 3), (0, 1, 2)), "mxfp8_e4m3": ((3,), (2,))}[name]
    at = BY_HAND[name]
    y, pull = jax.vjp(
        lambda x, w: matrix_op(op_of(conv, x, w), x, w, roles=roles_of(name, name)), x, w
    )
    close(y, wide(at(x, axes[0]), at(w, axes[1])), 288)
    dx, dw = pull(g)
    # dx sums over outputs (and window), dw over examples and places.
    back = {"int8": ((1, 2, 3), (0, 1, 3)), "mxfp8_e4m3": ((3,), (3,))}[name]
    want_dx = jax.vjp(lambda x: wide(x, at(w, back[1])), x)[1](jnp.float32(at(g, back[0])))[0]
    close(dx, want_dx, 72)
    along = {"int8": ((0, 1, 2), (0, 1, 2)), "mxfp8_e4m3": ((0,), (0,))}[name]
    quantized = jnp.float32(at(x, along[0])), jnp.float32(at(g, along[1]))
    want_dw = jax.vjp(lambda w: conv(quantized[0], w), w)[1](quantized[1])[0]
    close(dw, want_dw, 72)


def test_nan_is_not_hidden():
    x, w = normal((4, 64), (64, 3))
    x[1, 2] = np.nan
    y = np.asarray(matrix_op(op_of(lax.dot, x, w), x, w, roles=roles_of("int8", "int8")))
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2, 3]]).all()


def test_an_activation_that_is_not_rounded_again_is_saved_as_its_codes():
    x, w = normal((4, 64), (64, 3))
    op, x = op_of(lax.dot, x, w), jnp.asarray(x, jnp.bfloat16)

    def saved(roles, save=None):
        run = lambda x, w: matrix_op(op, jnp.tanh(x), w, roles=roles)  # noqa: E731
        run = run if save is None else jax.checkpoint(run, policy=save)
        _, pull = jax.vjp(run, x, w)
        return {(x.shape, str(x.dtype)) for x in jax.tree.leaves(pull) if x.dtype != jnp.bfloat16}

    # gw decides: from codes, int8 along other axes would be rounded twice.
    codes, weight = {((4, 64), "int8"), ((4, 1), "float32")}, {((64, 3), "float32")}
    assert saved(roles_of("int8", "int8", "bf16")) == codes | weight
    assert saved(roles_of("int8", "bf16", "int8")) == weight
    assert saved(roles_of("mxfp8_e4m3", "bf16")) == weight
    # And they have a name, by which a checkpoint keeps them and nothing else.
    named = jax.checkpoint_policies.save_only_these_names(CODES)
    assert saved(roles_of("int8", "bf16"), named) == codes | weight
    assert saved(roles_of("int8", "bf16"), jax.checkpoint_policies.nothing_saveable) == weight


def test_what_is_scaled_is_saved_as_it_came():
    x, w = normal((4, 64), (64, 3))
    op, x = op_of(lax.dot, x, w), jnp.asarray(x, jnp.bfloat16)
    _, pull = jax.vjp(lambda x, w: matrix_op(op, x, w, roles=roles_of("int8", "int8")), x, w)
    saved = {(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(pull) if leaf.ndim == 2}
    assert saved == {((4, 64), "bfloat16"), ((64, 3), "float32")}


def test_a_way_of_rounding_takes_no_scale_away():
    x, w = normal((8, 48), (48, 5))
    op = op_of(lax.dot, x, w)
    got = matrix_op(op, x, w, roles=roles_of("int8(toward_zero)", "bf16"))
    want = matrix_op(op, x, w, roles=roles_of("int8(toward_zero)@channel", "bf16"))
    np.testing.assert_array_equal(got, want)
    assert np.corrcoef(np.asarray(got).ravel(), (x @ w).ravel())[0, 1] > 0.99


def test_an_outer_product_is_rounded_too():
    x, w = normal((16, 1), (1, 9))
    op = op_of(lambda x, w: jnp.einsum("i,j->ij", x, w), x[:, 0], w[0])
    got = matrix_op(op, x[:, 0], w[0], roles=roles_of("int8", "int8"))
    close(got, int8(x, (0, 1)) @ int8(w, (0, 1)), 1)
