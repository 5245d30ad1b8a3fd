"""Scaled formats against quantizers written by hand in NumPy; laws; special values."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from precis.formats import (
    BLOCK_FORMATS,
    from_blocks,
    parse,
    quantize_dequantize,
    round_to,
    to_blocks,
)
from precis.formats.scaled import ScaledFormat
from tests.formats.oracle import enable_x64

SCALED = [
    *BLOCK_FORMATS,
    *(f"mxfp8_e4m3(scale={rule})" for rule in ("ceil", "even", "rceil")),
    *("int8@tensor", "int8@channel", "int4@block64", "e4m3fn@tensor", "e5m2@channel"),
    *("nf4@block64", "dynamic8@block256", "e2m1@block16:e4m3fn", "uint8@tensor"),
]
# One of each kind, and the rest when there is time.
FEW = ["mxfp4", "mxint8", "nvfp4", "int8@channel", "nf4@block64", "mxfp8_e4m3(scale=rceil)"]
MOST = [n if n in FEW else pytest.param(n, marks=pytest.mark.nightly) for n in SCALED]
MX = {
    "mxfp8_e4m3": (ml_dtypes.float8_e4m3fn, 448.0, 8),
    "mxfp8_e5m2": (ml_dtypes.float8_e5m2, 57344.0, 15),
    "mxfp6_e2m3": (ml_dtypes.float6_e2m3fn, 7.5, 2),
    "mxfp6_e3m2": (ml_dtypes.float6_e3m2fn, 28.0, 4),
    "mxfp4": (ml_dtypes.float4_e2m1fn, 6.0, 2),
}


def heavy(shape, seed=0):
    return np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def in_blocks(x, size):
    filled = np.pad(x, [(0, 0), (0, -x.shape[1] % size)])
    return filled.reshape(len(x), -1, size)


def back(blocks, x):
    return blocks.reshape(len(x), -1)[:, : x.shape[1]]


def onto(x, dtype, largest):
    return np.clip(x, -largest, largest).astype(np.float32).astype(dtype).astype(np.float64)


@pytest.mark.world
@pytest.mark.parametrize("name", MX)
@pytest.mark.parametrize("width", [64, 75])
def test_mx_formats_are_the_specification(name, width):
    dtype, largest, exponent = MX[name]
    x = heavy((8, width))
    blocks = in_blocks(x.astype(np.float64), 32)
    peak = np.abs(blocks).max(-1, keepdims=True)
    scale = 2.0 ** (np.floor(np.log2(peak)) - exponent)
    want = back(onto(blocks / scale, dtype, largest) * scale, x)
    np.testing.assert_array_equal(quantize_dequantize(x, name), want.astype(np.float32))
    np.testing.assert_array_equal(to_blocks(x, name).scales, scale[..., 0])


def test_mxint8_counts_in_64ths():
    x = heavy((4, 64))
    blocks = in_blocks(x.astype(np.float64), 32)
    scale = 2.0 ** np.floor(np.log2(np.abs(blocks).max(-1, keepdims=True)))
    want = np.clip(np.rint(blocks / scale * 64), -128, 127) / 64 * scale
    np.testing.assert_array_equal(quantize_dequantize(x, "mxint8"), back(want, x))


@pytest.mark.parametrize("width", [32, 41])
def test_nvfp4_scales_its_scales(width):
    x = heavy((8, width))
    blocks = in_blocks(x, 16)
    whole = np.float32(np.abs(x).max()) * np.float32(1 / (6 * 448))
    inverse = np.float32(1) / whole
    peak = np.abs(blocks).max(-1, keepdims=True)
    scale = onto(peak * np.float32(1 / 6) * inverse, ml_dtypes.float8_e4m3fn, 448.0).astype(
        np.float32
    )
    elements = onto(
        blocks * (np.float32(1) / (scale * whole)), ml_dtypes.float4_e2m1fn, 6.0
    ).astype(np.float32)
    got = to_blocks(x, "nvfp4")
    assert got.tensor_scale == whole
    np.testing.assert_array_equal(got.scales, scale[..., 0])
    np.testing.assert_array_equal(got.elements, back(elements, x))
    np.testing.assert_array_equal(from_blocks(got), back(elements * scale * whole, x))


@pytest.mark.parametrize(("name", "axes"), [("int8@tensor", (0, 1)), ("int8@channel", (1,))])
def test_absmax_integers(name, axes):
    x = heavy((8, 75))
    scale = np.abs(x).max(axes, keepdims=True) * np.float32(1 / 127)
    q = np.rint(x * (np.float32(1) / scale))
    got = to_blocks(x, name)
    np.testing.assert_array_equal(got.elements, q)
    np.testing.assert_array_equal(got.scales, scale)
    np.testing.assert_array_equal(from_blocks(got), q * scale)


def test_a_codebook_takes_the_nearest_value():
    x, values = heavy((4, 128)), np.array(parse("nf4").values)
    blocks = in_blocks(x, 64)
    scale = np.abs(blocks).max(-1, keepdims=True)
    nearest = np.abs((blocks * (1 / scale)).astype(np.float64)[..., None] - values).argmin(-1)
    want = values.astype(np.float32)[nearest] * scale
    np.testing.assert_array_equal(quantize_dequantize(x, "nf4@block64"), back(want, x))


@pytest.mark.parametrize("name", MOST)
def test_parts_put_together_are_the_rounded_array(name):
    x = heavy((3, 300))
    blocks = jax.jit(lambda x: to_blocks(x, name))(x)
    whole = jax.jit(lambda x: quantize_dequantize(x, name))(x)
    np.testing.assert_array_equal(bits(from_blocks(blocks)), bits(whole))
    np.testing.assert_array_equal(round_to(blocks.elements, blocks.format.grid), blocks.elements)


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "int8@channel", "nf4@block64"])
@pytest.mark.parametrize("axis", [0, 1])
def test_any_axis(name, axis):
    x = heavy((33, 5, 48))
    last = jax.jit(lambda x: quantize_dequantize(x, name))(np.moveaxis(x, axis, -1))
    want = np.moveaxis(np.asarray(last), -1, axis)

    @jax.jit
    def both(x):
        return quantize_dequantize(x, name, axis=axis), to_blocks(x, name, axis=axis)

    whole, blocks = both(x)
    np.testing.assert_array_equal(whole, want)
    np.testing.assert_array_equal(from_blocks(blocks), want)
    size = blocks.format.block
    assert blocks.scales.shape[axis] == (-(-x.shape[axis] // size) if size else 1)


def test_a_channel_may_run_along_several_axes():
    x = heavy((4, 6, 8))
    flat = quantize_dequantize(x.transpose(1, 0, 2).reshape(6, -1), "int8@channel")
    got = quantize_dequantize(x, "int8@channel", axis=(0, 2))
    np.testing.assert_array_equal(got, flat.reshape(6, 4, 8).transpose(1, 0, 2))


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "int8@tensor", "int8@channel", "nf4@block64"])
@pytest.mark.parametrize("shape", [(0,), (2, 0), (3, 1)])
def test_empty_and_ragged(name, shape):
    x = jnp.ones(shape)
    blocks = to_blocks(x, name)
    assert from_blocks(blocks).shape == shape
    np.testing.assert_array_equal(from_blocks(blocks), quantize_dequantize(x, name))


def test_a_scalar_has_the_tensors_scale():
    assert quantize_dequantize(jnp.float32(3.0), "int8@tensor") == 3


@pytest.mark.world
@pytest.mark.parametrize("name", ["mxfp4", "mxint8", "nvfp4", "nf4@block64", "int4@block64"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_what_is_not_finite_spoils_its_group_and_no_other(name, bad):
    fmt = parse(name)
    assert isinstance(fmt, ScaledFormat)
    assert fmt.block is not None
    x = heavy((1, 4 * fmt.block))
    clean = np.asarray(quantize_dequantize(x, name))
    x[0, fmt.block + 3] = bad
    got = np.asarray(quantize_dequantize(x, name))
    spoilt = np.arange(x.size) // fmt.block == 1
    assert np.isnan(got[0, spoilt]).all()
    if not fmt.tensor_scale:
        np.testing.assert_array_equal(got[0, ~spoilt], clean[0, ~spoilt])
    assert np.isfinite(got[0, ~spoilt]).all()
    np.testing.assert_array_equal(bits(from_blocks(to_blocks(x, name))), bits(got))


@pytest.mark.parametrize("name", ["nf4@block64", "int2@tensor", "int8@channel", "nvfp4"])
@pytest.mark.parametrize("size", [3e38, 1e-33])
def test_scales_at_the_ends_of_float32(name, size):
    x = heavy((1, 64))
    x *= np.float32(size) / np.abs(x).max()
    got, plain = quantize_dequantize(x, name), quantize_dequantize(x / np.float32(size), name)
    np.testing.assert_allclose(got, np.asarray(plain) * np.float32(size), rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["bf16@tensor", "tf32@tensor", "f32@channel", "e8m7@block32", "e7m8@block16:e4m3@tensor"],
)
def test_wide_elements_have_small_scales(name):
    # 1 / max is subnormal in float32.
    x = np.float32([1.0, 2.0, 100.0, 1e-3])
    np.testing.assert_allclose(quantize_dequantize(x, name), x, rtol=2.0**-7)


@pytest.mark.parametrize("rule", ["floor", "ceil", "even", "rceil"])
@pytest.mark.parametrize("element", ["e4m3fn", "e2m1", "int8q6"])
def test_elements_stay_on_the_grid_at_the_end_of_float32(element, rule):
    x = np.float32([3.4028235e38, -3.4028235e38, 1.0])
    blocks = to_blocks(x, f"{element}@block32:e8m0(scale={rule})")
    assert np.isfinite(blocks.elements).all()
    np.testing.assert_array_equal(round_to(blocks.elements, element), blocks.elements)
    np.testing.assert_array_equal(
        bits(from_blocks(blocks)), bits(quantize_dequantize(x, str(blocks.format)))
    )
    # Within one step of the element of the largest float32, and never beyond it.
    np.testing.assert_allclose(from_blocks(blocks)[:2], x[:2], rtol=0.5)


def test_a_grid_below_one_does_not_overflow_its_scale():
    x = np.float32([3.4028235e38, -1e38, 1.0])
    got = quantize_dequantize(x, "int8q7@channel")
    want = [3.4028235e38 * 127 / 128, -1e38, 0.0]
    np.testing.assert_allclose(got, want, rtol=0, atol=3.4028235e38 / 256)


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "int8@channel"])
def test_no_rows_at_all(name):
    assert quantize_dequantize(jnp.zeros((0, 64)), name).shape == (0, 64)


def test_a_block_longer_than_the_axis_takes_no_more_room():
    jaxpr = jax.make_jaxpr(lambda x: quantize_dequantize(x, "int8@block1000000"))(jnp.ones((2, 3)))
    assert "1000000" not in str(jaxpr.jaxpr.eqns).replace("block1000000", "").replace(
        "block=1000000", ""
    )


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "int8@tensor", "nf4@block64", "mxint8"])
def test_zeros_stay_zero(name):
    assert not np.asarray(quantize_dequantize(jnp.zeros((2, 70)), name)).any()


@pytest.mark.world
def test_subnormal_values_are_scaled_on_their_bits():
    # e5m2 reaches down to 2^-16 times the smallest scale, 2^-127: far into float32's subnormals.
    x = np.float32([1e-39, -3e-40, 2e-41, 7e-43] * 8)
    got = quantize_dequantize(x, "mxfp8_e5m2")
    scale = 2.0**-127
    want = onto(x.astype(np.float64) / scale, ml_dtypes.float8_e5m2, 57344.0) * scale
    np.testing.assert_array_equal(bits(got), bits(want))
    np.testing.assert_array_equal(bits(from_blocks(to_blocks(x, "mxfp8_e5m2"))), bits(want))
    assert np.asarray(bits(got)).all()


@pytest.mark.parametrize("name", ["mxfp4", "int8@channel", "nvfp4"])
def test_stochastic_elements_have_the_mean_of_what_they_round(name):
    fmt = parse(name.replace("@", "(stochastic)@") if "@" in name else f"{name}(stochastic)")
    x = heavy((1, 64), seed=3)
    keys = jax.random.split(jax.random.key(0), 4096)
    drawn = jax.vmap(lambda key: quantize_dequantize(x, fmt, key=key))(keys)
    blocks = to_blocks(x, name)
    size = blocks.format.block or 64
    step = np.repeat(np.asarray(blocks.scales).ravel(), size)[:64] * (
        1.0 if blocks.tensor_scale is None else float(blocks.tensor_scale)
    )
    largest = np.abs(np.asarray(blocks.elements)).max()
    inside = np.abs(np.asarray(x).ravel()) < largest * step  # beyond it, elements saturate
    # A step is at most 2 elements wide (e2m1's 4 to 6), its variance at most 1 step squared; six
    # standard deviations of the mean of 4096 draws.
    bound = 6 * step / np.sqrt(4096)
    error = np.abs(np.asarray(drawn, np.float64).mean(0).ravel() - x.ravel())
    assert (error < bound)[inside].all()
    assert len(np.unique(np.asarray(drawn)[:, 0, 5])) == 2


def test_the_gradient_is_straight_through():
    x = jnp.asarray(heavy((4, 64)))
    for name in ("mxfp4", "int8@channel"):
        np.testing.assert_array_equal(
            jax.grad(lambda x, name=name: (quantize_dequantize(x, name) * 3).sum())(x),
            jnp.full(x.shape, 3.0),
        )


def test_under_vmap_scan_and_shard_map():
    x = jnp.asarray(heavy((4, 8, 64)))
    want = quantize_dequantize(x, "mxfp8_e4m3")
    run = lambda row: quantize_dequantize(row, "mxfp8_e4m3")  # noqa: E731
    np.testing.assert_array_equal(jax.vmap(run)(x), want)
    np.testing.assert_array_equal(jax.lax.scan(lambda _, row: (None, run(row)), None, x)[1], want)
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("i",))
    spec = jax.sharding.PartitionSpec("i")
    sharded = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_array_equal(jax.jit(sharded)(x), want)


def test_bytes_are_those_of_the_codes():
    x = jnp.ones((2, 70))
    assert to_blocks(x, "mxfp4").nbytes == (2 * 70 * 4 + 2 * 3 * 8) // 8
    assert to_blocks(x, "nvfp4").nbytes == (2 * 70 * 4 + 2 * 5 * 8) // 8 + 4
    assert to_blocks(x, "int8@tensor").nbytes == 140 + 4


@pytest.mark.parametrize(
    ("fmt", "options", "error", "message"),
    [
        ("e4m3fn", {}, ValueError, "e4m3fn@channel; got e4m3fn"),
        ("mxfp4", {"axis": 2}, ValueError, "axis 2 is none of an array with 2 axes"),
        ("mxfp4", {"axis": (0, 1)}, ValueError, "blocks run along one axis"),
        ("mxfp4(stochastic)", {}, ValueError, "wants a random key"),
        ("mxfp4", {"key": jax.random.key(0)}, ValueError, "takes no key"),
    ],
)
def test_clear_errors(fmt, options, error, message):
    for verb in (to_blocks, quantize_dequantize):
        with pytest.raises(error, match=message):
            verb(jnp.ones((2, 32)), fmt, **options)


def test_integers_and_float64_are_refused():
    with pytest.raises(TypeError, match="got int32"):
        quantize_dequantize(jnp.ones(3, jnp.int32), "int8@tensor")
    with enable_x64(True), pytest.raises(TypeError, match="got float64"):
        quantize_dequantize(jnp.ones(3, jnp.float64), "int8@tensor")


@pytest.mark.parametrize("fmt", ["int8@channel", "int4@block8", "mxfp8_e4m3", "nvfp4"])
def test_groups_can_be_scaled_by_another_magnitude_than_their_largest(fmt):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 64)), jnp.float32)
    own = to_blocks(x, fmt)
    # The same where it is their largest; as of clipped values where it is less; NaN where it is.
    shape = own.scales.shape
    largest = jnp.abs(x).reshape(*shape, -1).max(-1)
    np.testing.assert_array_equal(from_blocks(to_blocks(x, fmt, largest=largest)), from_blocks(own))
    less = jnp.full(shape, 0.5)
    clipped = jnp.clip(x, -0.5, 0.5).at[:, ::8].set(0.5)
    got = to_blocks(x, fmt, largest=less)
    if fmt != "mxfp8_e4m3":  # whose floor rule lets more than `largest` through
        np.testing.assert_array_equal(got.scales, to_blocks(clipped, fmt).scales)
    none = to_blocks(x, fmt, largest=less.at[0].set(jnp.inf))
    assert np.isnan(from_blocks(none)[0]).all()
    assert np.isfinite(from_blocks(none)[1:]).all()
