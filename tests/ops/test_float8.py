"""fp8 products: float8 dots in programs for CUDA, on the very numbers of the bfloat16 route.

No GPU is needed: a program is lowered for CUDA and read; and this machine's backend runs it, since
XLA's CPU widens float8 dots.
"""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from precis.formats import parse
from precis.ops import MatrixOp, Operand, Roles, matrix_op
from precis.ops.float8 import float8_of, float8_product, in_float8
from precis.ops.operand import Summed, bring, bring_coded
from precis.ops.product import bind
from precis.quant import Kernel, quantize_array

from .lowered import Dot, dots_of, run_as_on_cuda, text_of
from .test_scaled import normal, op_of, roles_of

F32 = parse("f32")
E4M3FN, E5M2 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)
FORMATS = {
    "e4m3fn": E4M3FN,
    "e5m2": E5M2,
    "e4m3fn(overflow=saturate)": E4M3FN,
    "e5m2(subnormals=flush)": E5M2,
    "e5m2(toward_zero)": E5M2,
    "e4m3fn(stochastic)": E4M3FN,
    "e2m1": E4M3FN,
    "e2m3": E4M3FN,
    "e3m2": E4M3FN,
    "e4m2": E5M2,
}

BY_DAY = ("e4m3fn", "e5m2", "e4m3fn(stochastic)")


def every_bfloat16():
    return lax.bitcast_convert_type(jnp.arange(2**16, dtype=jnp.uint16), jnp.bfloat16)


def bits(x):
    """As integers, every NaN the same."""
    x = np.asarray(x)
    codes = x.view(f"u{x.dtype.itemsize}")
    return np.where(np.isnan(x.astype(np.float32)), np.iinfo(codes.dtype).max, codes)


@pytest.mark.world
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in BY_DAY else pytest.mark.nightly) for n in FORMATS],
)
def test_float8_has_every_value_of_the_bfloat16_route(name):
    fmt = parse(name)
    key = jax.random.key(0) if "stochastic" in name else None
    every = every_bfloat16().astype(jnp.float32)
    x = jnp.concatenate([every, every * np.float32(1 + 2**-9)])  # ties, and what is near them
    low = jax.jit(lambda x: bring(x, fmt, Summed((0,), (0,)), key))(x)
    assert (low.dtype, float8_of(fmt)) == (jnp.bfloat16, FORMATS[name])
    narrow = jax.jit(lambda x: x.astype(FORMATS[name]))(low)
    np.testing.assert_array_equal(bits(narrow.astype(jnp.bfloat16)), bits(low))
    # And the codes are those that NumPy gives the same values.
    np.testing.assert_array_equal(bits(narrow), bits(np.asarray(low).astype(FORMATS[name])))
    assert np.isnan(np.asarray(low, np.float32)).any()


@pytest.mark.parametrize("name", ["e4m3fn@tensor", "e5m2@channel", "e4m3fn(stochastic)@tensor"])
def test_float8_has_every_code_of_a_scaled_operand(name):
    x = jax.random.normal(jax.random.key(0), (64, 257)) * jnp.exp2(jnp.arange(257.0) / 8 - 16)
    x = x.at[3, 5].set(jnp.nan).at[4, 6].set(jnp.inf)
    key = jax.random.key(1) if "stochastic" in name else None
    parts = bring_coded(x, parse(name), Summed((1,), (1,)), key)
    narrow = parts.codes.astype(float8_of(parse(name)))
    assert parts.codes.dtype == jnp.bfloat16
    np.testing.assert_array_equal(bits(narrow.astype(jnp.bfloat16)), bits(parts.codes))
    # What was no number has the scale NaN.
    assert np.isnan(np.asarray(parts.scales)).any()


@pytest.mark.parametrize(
    "name",
    ["e4m3", "e3m4", "e5m3", "bf16", "int8", "nvfp4", "mxfp8_e4m3", "e4m3fnuz", "nf4@tensor"],
)
def test_what_float8_lacks_is_not_taken_for_it(name):
    assert float8_of(parse(name)) is None


@pytest.mark.parametrize(
    ("lhs", "rhs", "is_float8"),
    [
        ("e4m3fn@tensor", "e4m3fn@channel", True),
        ("e5m2", "e4m3fn", True),
        ("e4m3fn", "e5m2@tensor", True),
        ("e5m2@tensor", "e5m2", False),  # cuBLASLt has none
        ("e4m3fn", "bf16", False),
        ("int8", "e4m3fn", False),
    ],
)
def test_one_operand_at_least_is_e4m3fn(lhs, rhs, is_float8):
    assert (float8_product(parse(lhs), parse(rhs)) is not None) is is_float8
    assert float8_product(None, parse("e4m3fn")) is None


def pulled(op, roles, noise=None):
    def run(x, w, g):
        y, pull = jax.vjp(lambda x, w: matrix_op(op, x, w, roles=roles, noise=noise), x, w)
        return y, *pull(g)

    return run


def mixed(lhs, rhs, grad):
    sides = (Operand(parse(fmt), F32, is_weight=i == 1) for i, fmt in enumerate((lhs, rhs)))
    return Roles(*sides, F32, F32, parse(grad), parse(grad))


PAIRS = [("e4m3fn", "e4m3fn", "e5m2"), ("e5m2", "e4m3fn", "e4m3fn"), ("e4m3fn", "e5m2", "e4m3fn")]


@pytest.mark.world
@pytest.mark.parametrize(
    ("formats", "spec"),
    [
        (PAIRS[0], "mk,kn->mn"),
        (PAIRS[1], "km,nk->mn"),
        (PAIRS[2], "btk,hkd->bthd"),
        pytest.param(PAIRS[1], "bmk,bkn->bmn", marks=pytest.mark.nightly),
        pytest.param(PAIRS[2], "k,k->", marks=pytest.mark.nightly),
    ],
)
def test_the_program_for_cuda_gives_the_same_sums_bit_for_bit(formats, spec):
    sizes = dict(zip("bmknthd", (2, 6, 40, 5, 3, 4, 7), strict=True))
    rng = np.random.default_rng(0)
    # Integers that both formats have: their products, and sums of 160 of them, are exact.
    small = np.array([*range(-8, 9), 10, 12, -14, 16])
    left, right, out = spec.replace("->", ",").split(",")
    x, w, g = (
        jnp.asarray(rng.choice(small, [sizes[c] for c in side]), jnp.float32)
        for side in (left, right, out)
    )
    op = op_of(lambda x, w: jnp.einsum(spec, x, w), x, w)
    run = pulled(op, mixed(*formats))
    exact = lambda spec, *pair: np.einsum(spec, *(np.asarray(a, np.float64) for a in pair))  # noqa: E731
    want = (
        exact(spec, x, w),
        exact(f"{out},{right}->{left}", g, w),
        exact(f"{left},{out}->{right}", x, g),
    )
    for got in (jax.jit(run)(x, w, g), run_as_on_cuda(run, x, w, g)):
        for one, other in zip(got, want, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.world
@pytest.mark.parametrize("formats", PAIRS)
def test_products_of_any_two_numbers_are_exact(formats):
    x, w = (
        np.unique(np.arange(256, dtype=np.uint8).view(float8_of(parse(name))).astype(np.float32))
        for name in formats[:2]
    )  # NaN, Inf and subnormals among them
    with np.errstate(invalid="ignore"):  # Inf times zero
        outer = np.float32(np.asarray(x, np.float64)[:, None] * np.asarray(w, np.float64))
    op = op_of(lambda x, w: jnp.einsum("ik,kj->ij", x, w), x[:, None], w[None, :])
    run = lambda x, w: matrix_op(op, x, w, roles=mixed(*formats))  # noqa: E731
    assert "e4m3fn" in dots_of(run, x[:, None], w[None, :])[0]
    for got in (jax.jit(run), lambda *pair: run_as_on_cuda(run, *pair)):
        np.testing.assert_array_equal(got(x[:, None], w[None, :]), outer)


def test_a_derivative_is_that_of_the_bfloat16_route():
    x, w = (jnp.asarray(a, jnp.bfloat16) for a in normal((6, 8), (8, 5)))
    x, w = (a.astype(E4M3FN).astype(jnp.bfloat16) for a in (x, w))
    op = op_of(lax.dot, x, w)
    multiply = lambda x, w: bind(op, x, w, np.float32)  # noqa: E731
    narrow = in_float8(multiply, float8_product(parse("e4m3fn"), parse("e4m3fn")))
    # Beyond the largest of e4m3fn, and between its numbers.
    tangents = jnp.full_like(x, 1000), jnp.full_like(w, 1.0078125)
    for got, want in zip(*(jax.jvp(f, (x, w), tangents) for f in (narrow, multiply)), strict=True):
        np.testing.assert_array_equal(got, want)
    g = jnp.full((6, 5), 1000.0)
    for got, want in zip(*(jax.vjp(f, x, w)[1](g) for f in (narrow, multiply)), strict=True):
        np.testing.assert_array_equal(got, want)


FLOAT8 = {
    "forward": Dot("e4m3fn", "e4m3fn", "f32", "HIGHEST"),
    "dx": Dot("e5m2", "e4m3fn", "f32", "HIGHEST"),
    "dw": Dot("e4m3fn", "e5m2", "f32", "HIGHEST"),
}


@pytest.mark.world
@pytest.mark.parametrize(
    ("operand", "grad"),
    [("e4m3fn@tensor", "e5m2@tensor"), ("e4m3fn@channel", "e5m2@channel"), ("e4m3fn", "e5m2"),
     ("e4m3fn(stochastic)@tensor", "e5m2(stochastic)@tensor")],
)  # fmt: skip
def test_forward_and_both_gradients_are_float8_dots_on_cuda_alone(operand, grad):
    x, w, g = normal((64, 96), (96, 48), (64, 48))
    op, roles = op_of(lax.dot, x, w), roles_of(operand, grad)
    run = pulled(op, roles, jax.random.key(0) if roles.is_stochastic else None)
    assert dots_of(run, x, w, g) == list(FLOAT8.values())
    for platform in ("cpu", "tpu", "rocm"):
        text = text_of(run, x, w, g, platform=platform)
        assert text.count("stablehlo.dot_general") == 3
        assert "f8E" not in text


@pytest.mark.world
def test_scales_are_applied_to_the_sum():
    # Each operand is converted right before the dot; no scale comes between.
    x, w = normal((64, 96), (96, 48))
    op, roles = op_of(lax.dot, x, w), roles_of("e4m3fn@tensor", "e5m2@tensor")
    text = text_of(lambda x, w: matrix_op(op, x, w, roles=roles), x, w)
    (main,) = (part for part in text.split("func.func") if "dot_general" in part)
    lines = {line.split()[0]: line for line in main.splitlines() if " = " in line}
    (dot,) = (line for line in lines.values() if "dot_general" in line)
    for side in dot.split("dot_general ")[1].split(", ")[:2]:
        assert re.search(r"convert .*xbf16>\) -> tensor<\d+x\d+xf8E4M3FN>", lines[side])
    before, after = (part.count("stablehlo.multiply") for part in main.split(dot))
    assert (before, after) == (0, 2)


@pytest.mark.parametrize(
    ("operand", "grad", "want"),
    [
        # cuBLASLt has no e5m2 × e5m2.
        ("e5m2@tensor", "e4m3fn@tensor", ["bf16·bf16", "e4m3fn·e5m2", "e5m2·e4m3fn"]),
        ("e4m3fn@tensor", "bf16", ["e4m3fn·e4m3fn", "f32·f32", "f32·f32"]),
        ("e4m3fn", "bf16", ["e4m3fn·e4m3fn", "bf16·bf16", "bf16·bf16"]),
        ("bf16", "e5m2", ["bf16·bf16"] * 3),
        ("e2m1@tensor", "e3m2@tensor", ["e4m3fn·e4m3fn"] * 3),
        ("mxfp8_e4m3", "e5m2@tensor", ["f32·f32"] * 3),
        ("int8", "e4m3fn@tensor", ["i8·i8", "bf16·bf16", "bf16·bf16"]),
    ],
)  # fmt: skip
def test_what_else_cuda_is_asked_for(operand, grad, want):
    x, w, g = normal((64, 96), (96, 48), (64, 48))
    run = pulled(op_of(lax.dot, x, w), roles_of(operand, grad))
    found = dots_of(run, x, w, g)
    assert [f"{dot.lhs}·{dot.rhs}" for dot in found] == want
    assert {dot.precision for dot in found if "8" not in dot.lhs and dot.lhs[0] == "e"} <= {
        "HIGHEST"
    }


def test_convolutions_and_ragged_dots_stay_as_they_are():
    x, w = normal((2, 8, 8, 16), (3, 3, 16, 8))
    names = ("NHWC", "HWIO", "NHWC")

    def conv(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=names)

    roles = roles_of("e4m3fn@tensor", "e5m2@tensor")
    assert "f8E" not in text_of(lambda x, w: matrix_op(op_of(conv, x, w), x, w, roles=roles), x, w)
    rows, experts = normal((12, 8), (3, 8, 4))
    sizes = jnp.int32([4, 5, 3])
    (eqn,) = jax.make_jaxpr(lax.ragged_dot)(rows, experts, sizes).eqns
    op = MatrixOp(eqn.primitive, dict(eqn.params), sizes)
    plain = roles_of("e4m3fn", "e4m3fn")
    assert "f8E" not in text_of(lambda x, w: matrix_op(op, x, w, roles=plain), rows, experts)


@pytest.mark.world
def test_under_vmap_and_twice_differentiated():
    x, w = normal((3, 16, 32), (32, 16))
    op, roles = op_of(lax.dot, x[0], w), roles_of("e4m3fn", "e5m2")
    one = lambda x, w: matrix_op(op, x, w, roles=roles)  # noqa: E731
    many = jax.vmap(one, (0, None))
    loss = lambda x, w: jnp.sum(jnp.sin(many(x, w)))  # noqa: E731
    assert sorted(dots_of(jax.grad(loss, (0, 1)), x, w)) == sorted(FLOAT8.values())
    twice = lambda x, w: jax.grad(lambda x: jnp.sum(jax.grad(loss)(x, w) ** 2))(x)  # noqa: E731
    assert np.isfinite(jax.jit(twice)(x, w)).all()
    assert {"e4m3fn", "e5m2"} <= {dot.lhs for dot in dots_of(twice, x, w)}


@pytest.mark.world
def test_forward_mode_multiplies_float8_and_moves_in_bfloat16():
    x, w = normal((16, 32), (32, 8))
    op, roles = op_of(lax.dot, x, w), roles_of("e4m3fn", "e4m3fn")
    run = lambda x, w: matrix_op(op, x, w, roles=roles, forward_mode=True)  # noqa: E731
    moved = lambda x, w: jax.jvp(run, (x, w), (x * 1000, w))  # noqa: E731
    found = [(dot.lhs, dot.rhs) for dot in dots_of(moved, x, w)]
    assert sorted(found) == [("bf16", "bf16"), ("bf16", "bf16"), ("e4m3fn", "e4m3fn")]
    assert np.isfinite(jax.jit(moved)(x, w)).all()


def stored_roles(q, compute, grad):
    own, other = (Operand(fmt, F32, is_weight=fmt is q.format) for fmt in (q.format, compute))
    return Roles(other, own, F32, F32, grad, grad)


@pytest.mark.world
@pytest.mark.parametrize(
    ("weight", "compute", "want"),
    [
        ("e4m3fn", "e4m3fn@channel", ["e4m3fn·e4m3fn", "e5m2·e4m3fn"]),
        ("e4m3fn@tensor", "e4m3fn", ["e4m3fn·e4m3fn", "e5m2·e4m3fn"]),
        ("e5m2", "e4m3fn@channel", ["e4m3fn·e5m2", "bf16·bf16"]),
        ("e4m3fn", "bf16", ["bf16·bf16", "e5m2·e4m3fn"]),
        ("e4m3fn", "int8", ["bf16·bf16", "e5m2·e4m3fn"]),
    ],
)
def test_weights_that_are_stored_in_fp8(weight, compute, want):
    x, w, g = normal((8, 64), (64, 16), (8, 16))
    q = quantize_array(jnp.asarray(w), weight)
    roles = stored_roles(q, parse(compute), parse("e5m2@tensor"))
    op = op_of(lax.dot, x, w)

    def run(x, q, g):
        y, pull = jax.vjp(lambda x: matrix_op(op, x, q, roles=roles), x)
        return y, pull(g)

    found = dots_of(run, x, q, g)
    assert [f"{dot.lhs}·{dot.rhs}" for dot in found] == want
    # Codes go to float8 dots as they are stored: nothing decodes their bits on the way.
    text = text_of(run, x, q, g)
    assert "bitcast_convert" not in "".join(line for line in text.splitlines() if "f8E" in line)
    assert all(dot.lhs[0] != "e" for dot in dots_of(run, x, q, g, platform="cpu"))


def test_codes_that_calibration_made_integers_are_not_taken_for_fp8():
    # A static scale brings inputs to int8, whatever the policy says: 127 is no number of e4m3fn.
    x, w = normal((8, 64), (64, 16))
    q = quantize_array(jnp.asarray(w), "e4m3fn")
    kernel = Kernel(q, jnp.float32(3.0).reshape(1, 1))
    roles = stored_roles(q, parse("e4m3fn@channel"), parse("f32"))
    run = lambda x: matrix_op(op_of(lax.dot, x, w), x, kernel, roles=roles)  # noqa: E731
    assert [(dot.lhs, dot.rhs) for dot in dots_of(run, x)] == [("bf16", "bf16")]
