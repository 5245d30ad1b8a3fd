"""Matrix ops, each role's format against NumPy in float64 on operands rounded by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.formats import parse, round_to
from precis.ops import MatrixOp, Operand, Roles, matrix_op
from tests.draws import normal

FORMATS = {
    "lhs": "e4m3",
    "rhs": "bf16",
    "gx": "e5m2",
    "gw": "e4m2",
    "dlhs": "f16",
    "drhs": "e8m6",
}


DTYPES = {"bf16": jnp.bfloat16, "f16": jnp.float16}


def roles(*, accum="f32", out="f32", is_weight=True, **formats):
    fmt = {name: parse(text) for name, text in {**FORMATS, **formats}.items()}
    return Roles(
        Operand(fmt["lhs"], fmt["dlhs"], is_weight=False),
        Operand(fmt["rhs"], fmt["drhs"], is_weight=is_weight),
        parse(accum),
        parse(out),
        fmt["gx"],
        fmt["gw"],
    )


def op_of(fn, *args):
    (eqn,) = [
        eqn
        for eqn in jax.make_jaxpr(fn)(*args).eqns
        if eqn.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    return MatrixOp(eqn.primitive, dict(eqn.params))


def at(x, fmt):
    return np.asarray(round_to(x, fmt), np.float64)


@pytest.fixture
def operands():
    return normal(0, 8, 5), normal(1, 5, 6), normal(2, 8, 6)


def drawn(seed, dtype, *shape):
    """Values of a 16-bit dtype, as float32."""
    return np.asarray(normal(seed, *shape)).astype(DTYPES[dtype]).astype(np.float32)


def test_each_role_has_its_own_format(operands):
    x, w, g = operands
    run = jax.jit(lambda x, w: matrix_op(op_of(lax.dot, x, w), x, w, roles=roles()))
    y, pull = jax.vjp(run, x, w)
    dx, dw = pull(g)
    close = {"rtol": 0, "atol": 8 * 2.0**-24 * 8}  # 8 terms of size about 1, summed in float32
    np.testing.assert_allclose(y, at(x, "e4m3") @ at(w, "bf16"), **close)
    want_dx, want_dw = at(g, "e5m2") @ at(w, "bf16").T, at(x, "e4m3").T @ at(g, "e4m2")
    # Near a tie the float32 sum may round to the neighbor.
    np.testing.assert_allclose(dx, want_dx, rtol=2.0**-10, atol=1e-6)
    np.testing.assert_array_equal(dx, round_to(dx, "f16"))
    np.testing.assert_allclose(dw, want_dw, rtol=2.0**-6, atol=1e-6)
    np.testing.assert_array_equal(dw, round_to(dw, "e8m6"))


def test_accum_rounds_before_out(operands):
    x, w, _ = operands
    y = matrix_op(op_of(lax.dot, x, w), x, w, roles=roles(accum="e8m4", out="bf16"))
    assert y.dtype == jnp.bfloat16
    wide = matrix_op(op_of(lax.dot, x, w), x, w, roles=roles())
    np.testing.assert_array_equal(y.astype(jnp.float32), round_to(wide, "e8m4"))


@pytest.mark.world
@pytest.mark.parametrize("text", ["bf16", "f16"])
def test_16_bit_operands_accumulate_in_float32(text):
    ones = jnp.ones((1, 4096), jnp.float32)
    op = op_of(lax.dot, ones, ones.T)
    same = dict.fromkeys(FORMATS, text)
    total = matrix_op(op, ones, ones.T * 1.0078125, roles=roles(**same))
    assert total[0, 0] == 4096 * (1.0078125 if text == "bf16" else float(np.float16(1.0078125)))


EINSUMS = [
    ("bi,io->bo", (4, 3), (3, 5)),
    ("bti,io->bto", (2, 4, 3), (3, 5)),
    ("bti,ihd->bthd", (2, 4, 3), (3, 2, 5)),
    ("bthd,bshd->bhts", (2, 4, 3, 5), (2, 6, 3, 5)),
    ("bhts,bhsd->bhtd", (2, 3, 4, 6), (2, 3, 6, 5)),
    ("bthd,hdo->bto", (2, 4, 3, 5), (3, 5, 7)),
    ("oi,bi->ob", (5, 3), (4, 3)),
    ("i,i->", (9,), (9,)),
]


@pytest.mark.world
@pytest.mark.parametrize("dtype", ["bf16", pytest.param("f16", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("spec", "left", "right"), EINSUMS)
def test_every_layout_runs_and_transposes(spec, left, right, dtype):
    x, w = drawn(0, dtype, *left), drawn(1, dtype, *right)
    op = op_of(lambda x, w: jnp.einsum(spec, x, w), x, w)
    wide = dict.fromkeys(FORMATS, "f32") | {"lhs": dtype, "rhs": dtype}

    def loss(x, w):
        return jnp.sum(matrix_op(op, x, w, roles=roles(**wide)) ** 2)

    def plain(x, w):
        return jnp.sum(op.primitive.bind(x, w, **op.params) ** 2)

    got = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, w)
    want = jax.jit(jax.value_and_grad(plain, (0, 1)))(x, w)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=64 * 2.0**-24 * np.abs(b).max())


@pytest.mark.world
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(strides, groups):
    x, w = drawn(0, "bf16", 2, 8, 8, 4), drawn(1, "bf16", 3, 3, 4 // groups, 6)

    def conv(x, w):
        names = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, strides, "SAME", dimension_numbers=names, feature_group_count=groups
        )

    wide = dict.fromkeys(FORMATS, "f32") | {"lhs": "bf16", "rhs": "bf16"}
    op = op_of(conv, x, w)
    loss = lambda x, w: jnp.sum(matrix_op(op, x, w, roles=roles(**wide)) ** 2)  # noqa: E731
    got = jax.jit(jax.grad(loss, (0, 1)))(x, w)
    want = jax.jit(jax.grad(lambda x, w: jnp.sum(conv(x, w) ** 2), (0, 1)))(x, w)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=256 * 2.0**-24 * np.abs(b).max())


def test_float32_asks_for_full_precision(operands):
    x, w, g = operands
    all_f32 = roles(**dict.fromkeys(FORMATS, "f32"))

    def run(x, w):
        return matrix_op(op_of(lax.dot, x, w), x, w, roles=all_f32)

    jaxpr = jax.make_jaxpr(lambda x, w, g: jax.vjp(run, x, w)[1](g))(x, w, g)
    dots = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert dots
    assert all(eqn.params["precision"] == (lax.Precision.HIGHEST,) * 2 for eqn in dots)


def test_a_weight_is_saved_as_stored_and_an_activation_as_cast(operands):
    x, w, _ = operands
    op = op_of(lax.dot, x, w)
    bf16 = roles(**dict.fromkeys(FORMATS, "bf16"), out="bf16")
    _, pull = jax.vjp(lambda x, w: matrix_op(op, x, w, roles=bf16), x, w)
    saved = [leaf for leaf in jax.tree.leaves(pull) if hasattr(leaf, "dtype")]
    assert {(leaf.shape, str(leaf.dtype)) for leaf in saved} == {
        (x.shape, "bfloat16"),
        (w.shape, "float32"),
    }
