"""Codes and scales, bit for bit against NumPy; and what is no ordinary number."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from precis.formats import parse, quantize_dequantize
from precis.quant import dequantize, quantize_array, quantized_format
from tests.quant import oracle

MAIN = ["int8", "int4", "nf4", "mxfp4", "nvfp4", "e4m3fn"]
OTHERS = [
    *("int2@channel", "e5m2@tensor", "e4m3@channel", "e2m3", "mxfp8_e4m3", "mxfp6_e2m3", "mxint8"),
    *("int8@tensor", "int5@block10", "int16@channel", "e5m10@channel", "dynamic8"),
    *("int4@block16:e4m3fn", "int8@block16:bf16"),
]


def mostly_nightly(*names):
    """These by default, all others when asked for."""
    rest = [name for name in (*MAIN, *OTHERS) if name not in names]
    return [*names, *(pytest.param(name, marks=pytest.mark.nightly) for name in rest)]


def draw(seed, *shape, dtype=np.float32):
    """Heavy-tailed columns of very different sizes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, shape) * 10.0 ** rng.uniform(-3, 3, shape[-1:])
    return jnp.asarray(x.astype(np.float32)).astype(dtype)


def raw(tree):
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def real(q):
    """Where groups hold entries, and not what fills up a last block."""
    return oracle.groups(np.ones(q.shape), q.axes, q.format.block) == 1


def in_groups(x, q):
    """An array in the shape of `q`, or one in that of its scales, as the oracle has them."""
    if x.shape == q.shape:
        return oracle.groups(x, q.axes, q.format.block)
    moved = np.moveaxis(np.asarray(x), q.axes, range(-len(q.axes), 0))
    if q.format.block is None:
        return moved.reshape(*moved.shape[: moved.ndim - len(q.axes)], 1)
    return moved


@pytest.mark.parametrize(
    ("fmt", "bits", "shape", "dtype"),
    [
        ("int8", 8, (2, 40, 12), "float32"),
        ("int8", 8, (40, 12), "float16"),
        ("int8", 8, (3, 3, 4, 6), "float32"),
        ("int8@tensor", 8, (40, 12), "float32"),
        ("int4@block16", 4, (40, 12), "float16"),
        ("int2@channel", 2, (40, 12), "bfloat16"),
        ("int16@channel", 16, (40, 12), "float32"),
    ],
)
def test_integers_are_those_of_numpy(fmt, bits, shape, dtype):
    x = draw(0, *shape, dtype=dtype)
    q = quantize_array(x, fmt)
    codes, scale = oracle.symmetric_int(x.astype(np.float32), bits, q.axes, q.format.block)
    np.testing.assert_array_equal(in_groups(q.codes, q), codes)
    np.testing.assert_array_equal(in_groups(q.scale, q), scale)
    assert q.scale.dtype == np.float32
    assert q.zero_point is None


@pytest.mark.world
@pytest.mark.parametrize(
    ("fmt", "bits", "shape"),
    [
        ("int8", 8, (40, 12)),
        ("uint8@tensor", 8, (40, 12)),
        ("uint4@block16", 4, (40, 12)),
        ("int2@channel", 2, (2, 40, 12)),
    ],
)
def test_zero_points_are_those_of_numpy(fmt, bits, shape):
    x = draw(1, *shape) + 0.5  # some channels have no negative values, some few
    q = quantize_array(x, fmt, calibrate="minmax")
    codes, scale, zero = oracle.asymmetric_int(
        x, bits, q.axes, q.format.block, signed=not fmt.startswith("u")
    )
    codes = np.where(real(q), codes, 0)
    np.testing.assert_array_equal(in_groups(q.codes, q), codes)
    np.testing.assert_array_equal(in_groups(q.scale, q), scale)
    np.testing.assert_array_equal(in_groups(q.zero_point, q), zero)
    values = (codes - zero[..., None]).astype(np.float32) * scale[..., None]
    np.testing.assert_array_equal(in_groups(dequantize(q), q), np.where(real(q), values, 0))


def test_zero_is_exact_under_a_zero_point():
    x = draw(2, 32, 8).at[::3].set(0)
    assert (np.asarray(dequantize(quantize_array(x, "int4", calibrate="minmax")))[::3] == 0).all()


def test_nf4_takes_the_nearest_of_its_values():
    x = draw(3, 130, 6)
    q = quantize_array(x, "nf4")
    codes, scale = oracle.codebook(x, parse("nf4").values, q.axes, 64)
    np.testing.assert_array_equal(in_groups(q.codes, q), np.where(real(q), codes, 0))
    np.testing.assert_array_equal(in_groups(q.scale, q), scale)
    values = np.float32(parse("nf4").values)[codes] * scale[..., None]
    np.testing.assert_array_equal(in_groups(dequantize(q), q), values)


def test_fp8_is_what_ml_dtypes_casts():
    x = draw(4, 32, 8)
    q = quantize_array(x, "e4m3fn")
    scale = np.abs(x).max(0, keepdims=True) * np.float32(1 / 448)
    scaled = np.asarray(x) * (np.float32(1) / scale)
    np.testing.assert_array_equal(q.values, scaled.astype(ml_dtypes.float8_e4m3fn))
    assert q.values.dtype == ml_dtypes.float8_e4m3fn


@pytest.mark.parametrize("fmt", mostly_nightly("int4", "nf4", "mxfp4", "nvfp4"))
def test_it_dequantizes_to_what_the_format_gives(fmt):
    x = draw(5, 70, 9)
    q = quantize_array(x, fmt)
    axis = q.axes if q.format.granularity == "channel" else q.axes[0]
    np.testing.assert_array_equal(dequantize(q), quantize_dequantize(x, q.format, axis=axis))


def test_a_narrow_array_comes_back_in_its_dtype_rounded_once():
    x = draw(5, 70, 9, dtype=jnp.bfloat16)
    out = dequantize(quantize_array(x, "int8"))
    wide = quantize_dequantize(x.astype(np.float32), "int8@channel", axis=-2)
    np.testing.assert_array_equal(out, np.asarray(wide).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("fmt", mostly_nightly("int8", "nvfp4"))
def test_a_stack_of_matrices_is_its_matrices(fmt):
    stack = draw(6, 3, 70, 9)
    whole = quantize_array(stack, fmt)
    one_by_one = [quantize_array(x, fmt) for x in stack]
    for i, one in enumerate(one_by_one):
        sliced = jax.tree.map(lambda x, i=i: x[i], whole)
        assert jax.tree.structure(sliced) == jax.tree.structure(one)
        assert raw(sliced) == raw(one)
        assert sliced.shape == one.shape
    mapped = jax.vmap(lambda x: quantize_array(x, fmt))(stack)
    assert jax.tree.structure(mapped) == jax.tree.structure(whole)
    assert raw(mapped) == raw(whole)
    _, scanned = jax.lax.scan(lambda _, q: (None, dequantize(q)), None, whole)
    np.testing.assert_array_equal(scanned, dequantize(whole))


@pytest.mark.parametrize("fmt", mostly_nightly("int8", "mxfp4"))
def test_under_jit_it_is_the_same(fmt):
    x = draw(7, 70, 9)
    eager = quantize_array(x, fmt)
    jitted = jax.jit(lambda x: quantize_array(x, fmt))(x)
    shapes = jax.eval_shape(lambda x: quantize_array(x, fmt), x)
    assert raw(jitted) == raw(eager)
    assert jax.tree.structure(shapes) == jax.tree.structure(eager)
    assert (shapes.shape, shapes.nbytes) == (eager.shape, eager.nbytes)
    assert [s.dtype for s in jax.tree.leaves(shapes)] == [a.dtype for a in jax.tree.leaves(eager)]


@pytest.mark.parametrize(
    ("fmt", "calibrate", "dtype"),
    [
        ("int8", "absmax", "float32"),
        ("int8", "minmax", "float16"),
        ("int4@block16", "minmax", "float32"),
    ],
)
def test_the_error_is_at_most_half_a_step(fmt, calibrate, dtype):
    x = draw(8, 64, 40, dtype=dtype)
    q = quantize_array(x, fmt, calibrate=calibrate)
    error = np.abs(np.float64(dequantize(q)) - np.float64(x))
    step = in_groups(q.scale, q)[..., None].astype(np.float64)
    # Beside half a step: x · (1/S) has three roundings of up to 2^-24 of |x|, a float16 result
    # one of 2^-11.
    ulp = 2.0**-11 if dtype == "float16" else 2.0**-22
    bound = step / 2 + in_groups(np.abs(np.float64(x)), q) * ulp + 1e-7 * step
    assert (in_groups(error, q) <= bound).all()


@pytest.mark.world
@pytest.mark.parametrize(
    ("fmt", "bad"),
    [
        *[("int8", np.nan), ("mxfp8_e4m3", np.nan), ("nvfp4", np.nan)],
        *[("int8", -np.inf), ("nf4", np.inf)],
    ],
)
def test_a_group_that_is_not_finite_comes_back_as_nan_and_no_other(fmt, bad):
    x = draw(9, 128, 3).at[5, 1].set(bad)
    out = np.asarray(dequantize(quantize_array(x, fmt)))
    block = quantized_format(fmt).block or 128
    assert np.isnan(out[:block, 1]).all()
    assert np.isfinite(np.delete(out, 1, 1)).all()
    assert np.isfinite(out[block:]).all()


@pytest.mark.parametrize("calibrate", ["minmax", "percentile=90", "mse"])
def test_nor_does_any_calibration_hide_it(calibrate):
    # XLA's CPU drops NaN from the maximum of a large array.
    x = jnp.ones((70000, 2)).at[5, 1].set(jnp.nan)
    out = np.asarray(dequantize(quantize_array(x, "int8", calibrate=calibrate)))
    assert np.isnan(out[:, 1]).all()
    assert np.isfinite(out[:, 0]).all()


def test_a_large_array_hides_no_nan():
    x = jnp.ones((1 << 18, 2)).at[5, 1].set(jnp.nan)
    q = quantize_array(x, "int8")
    assert np.isnan(q.scale[0, 1])
    assert q.scale[0, 0] == np.float32(1 / 127)


@pytest.mark.parametrize("calibrate", ["absmax", "minmax", "percentile=99", "mse"])
def test_zeros_stay_zeros(calibrate):
    q = quantize_array(jnp.zeros((16, 4)).at[:, 1].set(2.0), "int8", calibrate=calibrate)
    out = np.asarray(dequantize(q))
    assert (out[:, [0, 2, 3]] == 0).all()
    np.testing.assert_allclose(out[:, 1], 2.0, rtol=2**-22)
    assert (q.scale[0, [0, 2, 3]] == 1).all()


def test_subnormals_are_zeros_but_for_power_of_two_scales():
    tiny = np.float32([[3e-39], [-1e-40]])
    assert (np.asarray(dequantize(quantize_array(jnp.asarray(tiny), "int8"))) == 0).all()
    out = np.asarray(dequantize(quantize_array(jnp.asarray(tiny), "mxint8")))
    # A scale of e8m0 is at least 2^-127, of which mxint8 has 64ths.
    assert (out.view(np.int32) != 0).all()
    bits = np.abs(out.view(np.int32) & 0x7FFFFFFF)
    assert (np.abs(bits - (tiny.view(np.int32) & 0x7FFFFFFF)) <= 2**22 // 128 * 2 + 2**16).all()


def test_small_float16_weights_keep_their_digits():
    x = jnp.asarray(np.random.default_rng(0).uniform(-9e-3, 9e-3, (64, 8)), jnp.float16)
    out = dequantize(quantize_array(x, "int8"))
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(out, x, atol=9e-3 / 127 / 2 * 1.01 + 1e-5)
    assert (np.asarray(out) != 0).mean() > 0.9


@pytest.mark.parametrize(
    ("fmt", "shape"),
    [("int8", (0, 4)), ("int4", (4, 0)), ("nvfp4", (0, 4))],
)
def test_arrays_without_entries_have_codes_without_entries(fmt, shape):
    q = quantize_array(jnp.zeros(shape), fmt)
    assert q.shape == shape
    assert dequantize(q).shape == shape


def test_a_scalar_is_one_group():
    q = quantize_array(jnp.float32(-3.0), "int8")
    assert (q.shape, int(q.values)) == ((), -127)
    np.testing.assert_allclose(dequantize(q), -3.0, rtol=2**-22)
    with pytest.raises(ValueError, match="a scalar has no axis"):
        quantize_array(jnp.float32(-3.0), "int4@tensor")


def test_axes_can_be_given():
    x = draw(10, 6, 4, 8)  # an attention's kernel: inputs, heads, features of a head
    assert quantize_array(x, "int8", axis=0).scale.shape == (1, 4, 8)
    assert quantize_array(x, "int8", axis=(-2, -1)).scale.shape == (6, 1, 1)
    assert quantize_array(x, "int8@tensor", axis=-3).scale.shape == (1, 1, 1)
    assert quantize_array(x, "nvfp4", axis=-1).tensor_scale.shape == (6, 1, 1)
    with pytest.raises(ValueError, match="axis 3 is none of an array with 3 axes"):
        quantize_array(x, "int8", axis=3)


def test_a_stochastic_format_takes_a_key():
    x = jnp.full((4000, 1), 0.3).at[0].set(127.0)
    with pytest.raises(ValueError, match="wants a random key"):
        quantize_array(x, "int8(stochastic)@channel")
    q = quantize_array(x, "int8(stochastic)@channel", key=jax.random.key(0))
    share = float(np.mean(np.asarray(q.values[1:]) == 1))
    # Three standard deviations of a share of 4000 draws.
    assert abs(share - 0.3) < 3 * np.sqrt(0.3 * 0.7 / 4000)
    stack = jnp.full((2, 40, 1), 0.3).at[:, 0].set(127.0)
    both = quantize_array(stack, "int8(stochastic)@channel", key=jax.random.key(0))
    assert (both.values[0] != both.values[1]).any()


@pytest.mark.parametrize(
    ("fmt", "message"),
    [
        ("bf16", "bf16 has no scale: precis.cast_to_param casts"),
        ("int8(up)", "rounded to the nearest; write int8"),
        ("int8(up)@channel", "rounded to the nearest or stochastically"),
        ("int20@channel", "more than 16 bits"),
        ("int4@block16:e2m1", "a NaN, which marks a group"),
        ("int9000", "2 to 32 bits"),
        ("nf5", "did you mean 'nf4'"),
        ("uint8", "calibrate='minmax' gives it a zero point"),
        ("udynamic8", "no negative values"),
    ],
)
def test_formats_that_nothing_is_kept_in(fmt, message):
    with pytest.raises(ValueError, match=message):
        quantize_array(jnp.ones((4, 4)), fmt)


def test_what_cannot_be_quantized_is_refused():
    with pytest.raises(TypeError, match="got int32: cast it first"):
        quantize_array(jnp.ones((2, 2), np.int32), "int8")
    with pytest.raises(TypeError, match="got float64: cast it first"):
        quantize_array(np.ones((2, 2)), "int8")
    for fmt in ("nf4", "mxfp4", "mxint8", "int4@block16:e4m3fn"):
        with pytest.raises(ValueError, match="a zero point goes with integers"):
            quantize_array(jnp.ones((2, 2)), fmt, calibrate="minmax")
