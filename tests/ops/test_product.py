"""Products of codes: real integers, exact, scales applied once, read off the compiled program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.formats import parse
from precis.ops import MatrixOp, Operand, Roles, matrix_op
from precis.ops.cpu import HAS_FAST_PRODUCTS
from precis.ops.operand import bring_coded, summed_axes
from precis.ops.product import product

from .test_scaled import op_of, roles_of

NEEDS_FAST = pytest.mark.skipif(not HAS_FAST_PRODUCTS, reason="integer kernels since jax 0.10")


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def coded(op, fmt, lhs, rhs):
    return [
        bring_coded(x, parse(fmt), summed_axes(op.primitive.name, op.params, x.ndim, side))
        for side, x in enumerate((lhs, rhs))
    ]


def dots_in(hlo):
    """(result, lhs, rhs) dtypes of each dot of an optimized program."""
    types = dict(re.findall(r"(%[\w.\-]+) = (\w+)\[", hlo))
    found = re.findall(
        r"= (\w+)\[[^=]*?\bdot\((?:\w+\[[^ ]* )?(%[\w.\-]+), (?:\w+\[[^ ]* )?(%[\w.\-]+)\)", hlo
    )
    return [(out, types[a], types[b]) for out, a, b in found]


@NEEDS_FAST
@pytest.mark.world
def test_forward_and_both_gradients_run_on_integers():
    x, w, g = normal((64, 96), (96, 48), (64, 48))
    op = op_of(lax.dot, x, w)
    run = lambda x, w, g: jax.vjp(  # noqa: E731
        lambda x, w: matrix_op(op, x, w, roles=roles_of("int8", "int8")), x, w
    )[1](g)
    forward = jax.jit(lambda x, w: matrix_op(op, x, w, roles=roles_of("int8", "int8")))
    dots = dots_in(forward.lower(x, w).compile().as_text())
    dots += dots_in(jax.jit(run).lower(x, w, g).compile().as_text())
    assert dots == [("s32", "s8", "s8")] * 3


@NEEDS_FAST
def test_bf16_runs_on_bf16_and_its_emulated_twin_likewise():
    x, w = normal((64, 96), (96, 48))
    for fmt in ("bf16", "e8m7", "e4m3"):
        lhs, rhs = (Operand(parse(fmt), parse("f32"), is_weight=i == 1) for i in (0, 1))
        roles = Roles(lhs, rhs, parse("f32"), parse("f32"), parse(fmt), parse(fmt))
        run = jax.jit(lambda x, w, r=roles: matrix_op(op_of(lax.dot, x, w), x, w, roles=r))
        assert dots_in(run.lower(x, w).compile().as_text()) == [("f32", "bf16", "bf16")]


@pytest.mark.world
@pytest.mark.parametrize(
    "spec", ["mk,kn->mn", "km,nk->mn", "bmk,bkn->bmn", "btk,hkd->bthd", "k,k->"]
)
def test_sums_are_exact(spec):
    sizes = dict(zip("bmknthd", (2, 6, 40, 5, 3, 4, 7), strict=True))
    left, right = spec.split("->")[0].split(",")
    x, w = normal(*([sizes[name] for name in names] for names in (left, right)))
    op = op_of(lambda x, w: jnp.einsum(spec, x, w), x, w)
    a, b = coded(op, "int8", x, w)
    assert a.codes.dtype == b.codes.dtype == np.int8
    got = jax.jit(lambda a, b: product(op, a, b))(a, b)
    exact = np.einsum(spec, np.int64(a.codes), np.int64(b.codes))
    scale = np.einsum(spec, *(np.broadcast_to(y.scales, y.codes.shape) for y in (a, b)))
    count = np.prod([sizes[name] for name in set(left) & set(right) - {"b"}])
    np.testing.assert_allclose(got, np.float64(exact) * np.float64(scale) / count, rtol=1e-6)


@pytest.mark.world
@pytest.mark.parametrize("groups", [{}, {"feature_group_count": 2}, {"batch_group_count": 2}])
def test_convolutions_scale_each_example_and_each_output(groups):
    x, w = normal((4, 6, 6, 8), (3, 3, 8 // groups.get("feature_group_count", 1), 6))

    def conv(x, w):
        names = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=names, **groups)

    op = op_of(conv, x, w)
    a, b = coded(op, "int8", x, w)
    assert a.codes.dtype == np.int8
    want = conv(*(np.float64(y.codes) * np.float64(y.scales) for y in (a, b)))
    got = jax.jit(lambda a, b: product(op, a, b))(a, b)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_a_sum_too_long_for_an_int32():
    # 200,000 products of 127² are 3.2e9, beyond 2^31.
    x = jnp.full((2, 200_000), 127, jnp.int8)
    op = op_of(lambda a, b: lax.dot_general(a, b, (((1,), (1,)), ((), ()))), *[jnp.float32(x)] * 2)
    got = jax.jit(lambda x: product(MatrixOp(op.primitive, op.params), x, x))(x)
    np.testing.assert_allclose(got, 200_000 * 127.0**2, rtol=1e-6)


def test_formats_of_few_bits_travel_as_codes():
    x, w = normal((4, 32), (32, 3))
    op = op_of(lax.dot, x, w)
    dtypes = {
        fmt: str(coded(op, fmt, x, w)[0].codes.dtype)
        for fmt in ("int4", "int8q6@tensor", "e4m3fn@tensor", "e5m10@channel", "e8m10@tensor")
    }
    assert dtypes == {
        "int4": "int8",
        "int8q6@tensor": "int8",
        "e4m3fn@tensor": "bfloat16",
        "e5m10@channel": "float16",
        "e8m10@tensor": "float32",
    }


@pytest.mark.parametrize(("fmt", "asks"), [("tf32", 0), ("f32", 1), ("e8m10", 0), ("e8m11", 1)])
def test_tf32_is_asked_for_where_a_gpu_may_have_it(fmt, asks):
    x, w = normal((64, 96), (96, 48))
    op, own = op_of(lax.dot, x, w), parse(fmt)
    lhs, rhs = (Operand(own, parse("f32"), is_weight=i == 1) for i in (0, 1))
    roles = Roles(lhs, rhs, parse("f32"), parse("f32"), own, own)
    run = jax.value_and_grad(lambda x, w: matrix_op(op, x, w, roles=roles).sum(), (0, 1))
    traced = jax.jit(run).trace(x, w)
    on = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cuda", "tpu")}
    assert on["cuda"].count("precision = [HIGHEST, HIGHEST]") == 3 * asks
    assert on["tpu"].count("precision = [HIGHEST, HIGHEST]") == 3
