"""SmoothQuant: the same function in floats, and int8 that outliers harm less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from precis.models import Decoder, DecoderConfig
from precis.ptq import Statistics, calibrate, quantize_model, smooth

ROWS, IN, OUT, OUTLIERS, FACTOR = 64, 128, 96, 4, 64.0


def fn(weights, x):
    return x @ weights["kernel"]


@pytest.fixture(scope="module")
def data():
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (ROWS, IN)).at[:, :OUTLIERS].multiply(FACTOR)
    return {"kernel": jax.random.normal(keys[1], (IN, OUT))}, x


@pytest.fixture(scope="module")
def smoothed(data):
    weights, x = data
    return smooth(weights, calibrate(fn, weights, [x]))


def sqnr_db(out, exact):
    noise = np.asarray(out, np.float64) - exact
    return 10 * np.log10(np.mean(exact**2) / np.mean(noise**2))


def test_the_vector_is_the_papers(data, smoothed):
    weights, x = data
    largest = np.abs(np.asarray(x, np.float64)).max(0)
    rows = np.abs(np.asarray(weights["kernel"], np.float64)).max(1)
    s = np.sqrt(largest / rows)
    np.testing.assert_allclose(smoothed.smoothing["kernel"][:, 0], s, rtol=1e-6)
    # Both sides have the same magnitude then.
    np.testing.assert_allclose(smoothed.columns["kernel"][:, 0], rows * s, rtol=1e-6)
    np.testing.assert_allclose(smoothed.amax["kernel"], (rows * s).max(), rtol=1e-6)


def test_the_float_function_is_the_same_up_to_rounding(data, smoothed):
    weights, x = data
    s = smoothed.smoothing["kernel"]
    out = fn({"kernel": weights["kernel"] * s}, x / s[:, 0])
    wide_x, wide_w = np.asarray(x, np.float64), np.asarray(weights["kernel"], np.float64)
    # Each product has three roundings of half an ulp, each of fewer than IN sums one.
    bound = (3 + IN) * 2.0**-24 * (np.abs(wide_x) @ np.abs(wide_w))
    assert (np.abs(out - wide_x @ wide_w) <= bound * (1 + 2**-10)).all()


def test_int8_is_better_where_columns_are_large(data, smoothed):
    weights, x = data
    exact = np.asarray(x, np.float64) @ np.asarray(weights["kernel"], np.float64)
    out = {}
    for name, given in (("plain", {}), ("smooth", {"smoothing": smoothed.smoothing})):
        fn8, qparams = quantize_model(fn, weights, "w8a8", **given)
        out[name] = np.asarray(jax.jit(fn8)(qparams, x), np.float64)
    # What the columns without outliers contribute; the outliers drown all else.
    rest = exact - np.asarray(x[:, :OUTLIERS], np.float64) @ np.asarray(
        weights["kernel"][:OUTLIERS], np.float64
    )
    ratio = {name: 10 * np.log10(np.mean(rest**2) / np.mean((y - exact) ** 2)) for name, y in
             out.items()}  # fmt: skip
    # A step of plain inputs is FACTOR times as wide as without outliers; smoothed by the square
    # root, both steps are √FACTOR as wide: half the decibels, 9 of 18, less what weights lose.
    assert ratio["smooth"] > ratio["plain"] + 6


def test_static_scales_are_those_of_smoothed_inputs(data, smoothed):
    weights, x = data
    exact = np.asarray(x, np.float64) @ np.asarray(weights["kernel"], np.float64)
    given = {"input_amax": smoothed.amax, "smoothing": smoothed.smoothing}
    fn8, qparams = quantize_model(fn, weights, "w8a8_static", **given)
    assert sqnr_db(fn8(qparams, x), exact) > 35


def test_layers_of_a_scan_are_smoothed_and_scaled_each_by_itself():
    model = Decoder(DecoderConfig(vocabulary=32, dim=16, layers=2, heads=2), rngs=nnx.Rngs(0))
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, 32)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    found = smooth(params, calibrate(model, params, [tokens]))
    fn8, qparams = quantize_model(
        model, params, "w8a8_static", input_amax=found.amax, smoothing=found.smoothing
    )
    kernel = qparams["layers"]["mlp"]["down"]["kernel"]
    assert (kernel.input_amax.shape, kernel.smoothing.shape) == ((2, 1, 1), (2, 48, 1))
    out = jax.jit(fn8)(qparams, tokens)
    assert sqnr_db(out, np.asarray(model(tokens), np.float64)) > 25
    # What stays in float is left as it was.
    assert (qparams["embed"]["embedding"] == params["embed"]["embedding"]).all()


def test_zeros_change_nothing_and_a_nan_stays():
    weights = {"w": jnp.float32([[0, 0], [1, 2], [1, 1]])}
    seen = Statistics({"w": jnp.ones((1, 1))}, {"w": jnp.float32([[1], [0], [jnp.nan]])}, {})
    found = smooth(weights, seen)
    np.testing.assert_array_equal(found.smoothing["w"], [[1], [1], [np.nan]])
    assert jnp.isnan(found.amax["w"]).all()


def test_float16_weights_are_multiplied_in_float32():
    weights = {"w": jnp.full((2, 3), 60000, jnp.float16)}
    vector = {"w": jnp.float32([[4], [1]])}
    _, qparams = quantize_model(lambda p, x: x @ p["w"], weights, "w8a8", smoothing=vector)
    assert qparams["w"].dtype == jnp.float16
    assert jnp.isfinite(qparams["w"].weight.scale).all()


@pytest.mark.parametrize(
    ("alpha", "path", "message"),
    [(1.5, "w", "from 0 to 1"), (0.5, "v", "another model")],
)
def test_clear_errors(alpha, path, message):
    seen = Statistics({path: jnp.ones((1, 1))}, {path: jnp.ones((2, 1))}, {})
    with pytest.raises(ValueError, match=message):
        smooth({"w": jnp.ones((2, 2))}, seen, alpha=alpha)


def test_smoothing_of_no_such_path():
    with pytest.raises(ValueError, match="nearest: 'kernel'"):
        quantize_model(fn, {"kernel": jnp.eye(4)}, "w8", smoothing={"kernle": jnp.ones((4, 1))})
