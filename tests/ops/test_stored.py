"""Products with weights in few bits, against NumPy's integers and float64."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.formats import parse
from precis.ops import MatrixOp, Operand, Roles, matrix_op, multiplied_as
from precis.quant import Kernel, dequantize, quantize_array

F32 = parse("f32")


def op_of(fn, *args):
    (eqn,) = jax.make_jaxpr(fn)(*args).eqns
    return MatrixOp(eqn.primitive, dict(eqn.params))


def roles(op, weight, compute, *, grad="f32", out="f32"):
    other = parse(compute)
    own = multiplied_as(op.primitive.name, op.params, weight, 1, other)
    return Roles(
        Operand(other, F32, is_weight=False),
        Operand(own, F32, is_weight=True),
        F32,
        parse(out),
        parse(grad),
        parse(grad),
    )


def multiplied(x, weight, compute, **how):
    op = op_of(lax.dot, x, jnp.zeros(weight.shape))
    forward = how.pop("forward_mode", False)
    given = roles(op, weight, compute, **how)
    return matrix_op(op, x, weight, roles=given, forward_mode=forward)


@pytest.fixture(scope="module")
def operands():
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (6, 64))
    return x, jax.random.normal(keys[1], (64, 16)), jax.random.normal(keys[2], (6, 16))


def codes_by_hand(x):
    """A row's codes and scale, as bitwise as NumPy's float32 has them."""
    x = np.asarray(x, np.float32)
    scale = np.abs(x).max(1, keepdims=True) * np.float32(1 / 127)
    return np.clip(np.rint(x * (np.float32(1) / scale)), -127, 127).astype(np.int64), scale


@pytest.mark.world
def test_int8_by_int8_is_the_integer_product_times_both_scales(operands):
    x, w, _ = operands
    q = quantize_array(w, "int8")
    got = jax.jit(lambda x, q: multiplied(x, q, "int8"))(x, q)
    codes, scale = codes_by_hand(x)
    sums = codes @ np.asarray(q.values, np.int64)
    # Sums below 2^24 are exact in float32; the scales are applied one after the other.
    want = (sums.astype(np.float32) * scale) * np.asarray(q.scale)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("fmt", ["int8", "int4@channel", "e4m3fn", "nf4", "int8@tensor"])
@pytest.mark.parametrize("compute", ["bf16", "f32", pytest.param("f16", marks=pytest.mark.nightly)])
def test_weights_alone(operands, fmt, compute):
    x, w, g = operands
    q = quantize_array(w, fmt)
    dtype = {"bf16": jnp.bfloat16, "f16": jnp.float16, "f32": jnp.float32}[compute]
    y, pull = jax.vjp(jax.jit(lambda x: multiplied(x, q, compute)), x)
    is_opened = fmt == "nf4"
    wide = dequantize(q).astype(dtype) if is_opened else dequantize(q)
    wide, low = np.asarray(wide, np.float64), np.asarray(x.astype(dtype), np.float64)
    want = low @ wide
    # Two digits are off by less than s/256, where s is at most 2/127 of the row's largest.
    largest = np.abs(low).max(1, keepdims=True)
    off = 0 if is_opened or compute == "f32" else 2 / (127 * 256)
    bound = off * largest * np.abs(wide).sum(0) + 64 * 2.0**-23 * (np.abs(low) @ np.abs(wide))
    assert (np.abs(np.asarray(y, np.float64) - want) <= bound).all()
    (dx,) = pull(g)
    np.testing.assert_allclose(dx, np.asarray(g, np.float64) @ wide.T, rtol=0, atol=1e-4)


def test_the_gradient_in_integers(operands):
    x, w, g = operands
    q = quantize_array(w, "int8")
    dx = jax.jit(lambda x, g: jax.vjp(lambda x: multiplied(x, q, "int8", grad="int8"), x)[1](g)[0])
    codes, scale = codes_by_hand(np.asarray(g, np.float32) * np.asarray(q.scale))
    want = (codes @ np.asarray(q.values, np.int64).T).astype(np.float32) * scale
    np.testing.assert_allclose(dx(x, g), want, rtol=2.0**-23)


GRADIENTS = [
    ("bi,io->bo", (6, 8), (8, 5), "int8", "bf16"),
    ("bi,io->bo", (6, 8), (8, 5), "int8", "int8"),
    ("bhi,hio->bho", (6, 2, 8), (2, 8, 5), "bf16", "bf16"),
    *(
        pytest.param(*case, marks=pytest.mark.nightly)
        for case in (
            ("io,bi->ob", (6, 8), (8, 5), "int8", "bf16"),
            ("bti,io->bto", (2, 3, 8), (8, 5), "int8", "int8"),
        )
    ),
]


@pytest.mark.world
@pytest.mark.parametrize(("spec", "left", "right", "compute", "gw"), GRADIENTS)
def test_the_gradient_of_a_weight_is_that_of_a_float_in_its_place(spec, left, right, compute, gw):
    keys = jax.random.split(jax.random.key(2))
    x, w = jax.random.normal(keys[0], left), jax.random.normal(keys[1], right)
    q, given = quantize_array(w, "int8"), (x, w) if spec[0] == "b" else (w, x)
    found = jax.make_jaxpr(lambda *pair: jnp.einsum(spec, *pair))(*given).eqns
    (eqn,) = (e for e in found if e.primitive.name == "dot_general")
    op, side = MatrixOp(eqn.primitive, dict(eqn.params)), int(eqn.invars[0].aval.shape != right)
    ordered = lambda x, w: (x, w) if side else (w, x)  # noqa: E731
    other = Operand(parse(compute), F32, is_weight=False)

    def run(x, weight, fmt):
        own = Operand(fmt, F32, is_weight=True)
        roles = Roles(*ordered(other, own), F32, F32, F32, parse(gw))
        return matrix_op(op, *ordered(x, weight), roles=roles)

    def pulled(q):
        fmt = multiplied_as(op.primitive.name, op.params, q, side, parse(compute))
        stored = lambda x, t: run(x, Kernel(q, tangent=t), fmt)  # noqa: E731
        y, pull = jax.vjp(stored, x, jnp.zeros(right))
        _, frozen = jax.vjp(lambda x: run(x, q, fmt), x)
        _, wide = jax.vjp(lambda w: run(x, w, F32), dequantize(q))
        return pull(jnp.cos(y)), frozen(jnp.cos(y)), wide(jnp.cos(y))

    (dx, dw), (same,), (want,) = jax.jit(pulled)(q)
    assert (dw.shape, dw.dtype) == (right, jnp.float32)
    np.testing.assert_array_equal(dw, want)
    np.testing.assert_array_equal(dx, same)


def test_forward_mode_goes_straight_through(operands):
    x, w, _ = operands
    q = quantize_array(w, "int8")
    run = jax.jit(lambda x: multiplied(x, q, "int8", forward_mode=True))
    y, dot = jax.jvp(run, (x,), (x,))
    np.testing.assert_array_equal(y, jax.jit(lambda x: multiplied(x, q, "int8"))(x))
    np.testing.assert_allclose(dot, np.asarray(x) @ np.asarray(dequantize(q)), atol=1e-4)


def test_more_products_than_an_int32_holds():
    x = jnp.ones((1, 140_000))
    q = quantize_array(jnp.ones((140_000, 1)), "int8")
    assert jax.jit(lambda x: multiplied(x, q, "int8"))(x)[0, 0] == pytest.approx(140_000, rel=1e-6)


def test_one_cast_at_the_end(operands):
    x, w, _ = operands
    q = quantize_array(w, "int8")
    wide = jax.jit(lambda x: multiplied(x, q, "int8"))(x)
    low = jax.jit(lambda x: multiplied(x, q, "int8", out="f16"))(x)
    assert low.dtype == jnp.float16
    np.testing.assert_array_equal(low, wide.astype(jnp.float16))


@pytest.mark.parametrize("compute", ["int8", "bf16"])
def test_nan_stays_visible(operands, compute):
    x, w, _ = operands
    q = quantize_array(w, "int8")
    got = jax.jit(lambda x: multiplied(x, q, compute))(x.at[2, 3].set(jnp.nan))
    assert np.isnan(got[2]).all()
    assert np.isfinite(np.asarray(got)[[0, 1, 3, 4, 5]]).all()


def sqnr_db(want, got):
    return 10 * np.log10(np.sum(np.square(want)) / np.sum(np.square(want - np.asarray(got))))


def test_outlier_columns_spare_the_rest(operands):
    x, w, _ = operands
    x = jax.random.normal(jax.random.key(9), (64, 64)).at[:, 7].multiply(100.0)
    q = quantize_array(w, "int8")
    rest = np.ones(64, bool)
    rest[7] = False
    wide = np.asarray(dequantize(q), np.float64)
    want = np.asarray(x, np.float64)[:, rest] @ wide[rest]
    column = np.asarray(x, np.float64)[:, 7:8] @ wide[7:8]
    with_them = jax.jit(lambda x: multiplied(x, Kernel(q, outliers=4), "int8"))(x)
    without = jax.jit(lambda x: multiplied(x, q, "int8"))(x)
    assert sqnr_db(want, np.asarray(with_them, np.float64) - column) >= 40
    # A row's step is 100 |z| / 127 with z ~ N(0, 1): its noise is 10^4 / 127² / 12, -12.9 dB.
    # Over 64 rows that is off by 0.7 dB, one standard deviation.
    assert sqnr_db(want, np.asarray(without, np.float64) - column) == pytest.approx(12.9, abs=2)


def test_no_column_above_the_threshold_is_no_outlier(operands):
    x, w, _ = operands
    q = quantize_array(w, "int8")
    plain = jax.jit(lambda x: multiplied(x, q, "int8"))(x)
    same = jax.jit(lambda x: multiplied(x, Kernel(q, outliers=4), "int8"))(x)
    np.testing.assert_array_equal(plain, same)


def test_a_calibrated_scale(operands):
    x, w, _ = operands
    q = quantize_array(w, "int8")
    kernel = Kernel(q, input_amax=jnp.full((1, 1), 2.0))
    got = jax.jit(lambda x: multiplied(x, kernel, "int8"))(x.at[2, 3].set(jnp.nan))
    step = np.float32(2.0) * np.float32(1 / 127)
    steps = np.asarray(x, np.float32) * (np.float32(1) / step)
    codes = np.clip(np.rint(steps), -128, 127).astype(np.int64)
    want = (codes @ np.asarray(q.values, np.int64)).astype(np.float32) * step * np.asarray(q.scale)
    np.testing.assert_array_equal(np.asarray(got)[[0, 1, 3]], want[[0, 1, 3]])
    assert np.isnan(got[2]).all()


def test_smoothing_moves_outliers_into_the_weight(operands):
    x, w, g = operands
    by = jnp.ones((64, 1)).at[7].set(100.0)
    x = x.at[:, 7].multiply(100.0)
    kernel = Kernel(quantize_array(w * by, "int8"), smoothing=by)
    y, pull = jax.vjp(jax.jit(lambda x: multiplied(x, kernel, "f32")), x)
    wide = np.asarray(dequantize(kernel))
    np.testing.assert_allclose(y, np.asarray(x) @ wide, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(pull(g)[0], np.asarray(g) @ wide.T, rtol=1e-4, atol=1e-3)


def test_each_matrix_of_a_batched_product_has_outliers_of_its_own():
    x = jax.random.normal(jax.random.key(9), (5, 3, 64)).at[:, [0, 1, 2], [7, 30, 7]].multiply(99.0)
    q = quantize_array(jax.random.normal(jax.random.key(8), (3, 64, 4)), "int8")
    dots = lambda x, w: jnp.einsum("bgk,gkn->gbn", x, w)  # noqa: E731
    op = op_of(
        lambda a, b: lax.dot_general(a, b, (((2,), (1,)), ((1,), (0,)))), x, jnp.ones(q.shape)
    )
    kernel = Kernel(q, outliers=1)
    run = jax.jit(functools.partial(matrix_op, op, roles=roles(op, kernel, "int8")))
    want = np.asarray(dots(x, dequantize(q)))
    largest = x.at[:, [0, 1, 2], [7, 30, 7]].set(0.0)
    rest = want - dots(x - largest, dequantize(q))
    assert sqnr_db(rest, rest + run(x, kernel) - want) > 40
    one = jax.jit(functools.partial(multiplied, compute="int8"))
    each = [one(x[:, g], Kernel(q[g], outliers=1)) for g in range(3)]
    np.testing.assert_array_equal(run(x, kernel), each)


def test_outliers_of_a_convolution_are_refused():
    x, q = jnp.ones((1, 5, 3)), quantize_array(jnp.ones((2, 3, 4)), "int8")
    conv = lambda x, w: lax.conv_general_dilated(  # noqa: E731
        x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    op, kernel = op_of(conv, x, jnp.ones(q.shape)), Kernel(q, outliers=1)
    with pytest.raises(ValueError, match="give it another mode by a rule"):
        matrix_op(op, x, kernel, roles=roles(op, kernel, "int8"))


def test_a_convolution(operands):
    x = jax.random.normal(jax.random.key(3), (2, 9, 9, 3))
    w = jax.random.normal(jax.random.key(4), (3, 3, 3, 5))
    q = quantize_array(w, "int8")
    conv = lambda x, w: lax.conv_general_dilated(  # noqa: E731
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    op = op_of(conv, x, w)
    want = conv(x, dequantize(q))
    for compute, least in (("int8", 35), ("bf16", 45), ("f32", 110)):
        run = jax.jit(functools.partial(matrix_op, op, roles=roles(op, q, compute)))
        assert sqnr_db(np.asarray(want), run(x, q)) > least


PRODUCT = re.compile(r"dot_general .*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)")


@pytest.mark.world
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_multiply_codes_in_the_dtype_of_the_inputs(operands, platform):
    x, w, _ = operands
    q = quantize_array(w, "int8")
    for compute, want in (("bf16", "bf16"), ("f16", "f16"), ("f32", "f32"), ("int8", "i8")):
        run = jax.jit(lambda x, q, compute=compute: multiplied(x, q, compute))
        text = run.trace(x, q).lower(lowering_platforms=(platform,)).as_text()
        assert PRODUCT.findall(text) == [(want, want)]
