"""A report's figures, against the same models put together by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from precis.models import MLP
from precis.ptq import quantize_model, report
from precis.tree import nbytes

RULES = [("**", "w8a8"), ("Dense_1/**", "w4"), ("Dense_2/**", "f32")]


@pytest.fixture(scope="module")
def data():
    x = jax.random.normal(jax.random.key(0), (16, 64))
    return MLP().init(jax.random.key(1), x)["params"], x


@pytest.fixture(scope="module")
def found(data):
    params, x = data
    fn, qparams = quantize_model(MLP(), params, RULES)
    return report(fn, params, qparams, x, loss=lambda out: jnp.mean(jnp.square(out)))


def run(params, x, rules):
    """Output in float64, and the loss."""
    if rules is None:
        out = jax.jit(MLP().apply)({"params": params}, x)
    else:
        fn, qparams = quantize_model(MLP(), params, rules)
        out = jax.jit(fn)(qparams, x)
    return np.asarray(out, np.float64)


def test_alone_and_all_together(data, found):
    params, x = data
    exact = run(params, x, None)

    def figures(rules):
        out = run(params, x, rules)
        ratio = np.sum(exact**2) / np.sum((out - exact) ** 2)
        return pytest.approx(10 * np.log10(ratio), abs=1e-3), pytest.approx(np.mean(out**2))

    first, second = found.rows
    assert (first.alone_db, first.loss_alone) == figures([("Dense_0/**", "w8a8")])
    assert (first.cumulative_db, first.loss_cumulative) == (first.alone_db, first.loss_alone)
    assert (second.alone_db, second.loss_alone) == figures([("Dense_1/**", "w4")])
    assert (second.cumulative_db, second.loss_cumulative) == figures(RULES)
    assert (found.output_db, found.loss_after) == figures(RULES)
    assert found.loss_before == pytest.approx(np.mean(exact**2))


def test_what_is_said_of_each_weight(data, found):
    params, _ = data
    first, second = found.rows
    assert (first.path, first.mode, first.rule) == ("Dense_0/kernel", "w8a8", "**")
    assert (second.path, second.mode, second.rule) == ("Dense_1/kernel", "w4", "Dense_1/**")
    assert (first.format, second.format) == ("int8@channel", "int4@block64")
    assert (first.bytes_before, first.bytes_after) == (4 * 64 * 128, 64 * 128 + 4 * 128)
    assert found.kept == {"Dense_2/kernel": "the rules say so"}
    assert found.bytes_before == nbytes(params)
    assert first.weight_db > 40 > second.weight_db > 18
    assert found.record()["rows"][0]["path"] == "Dense_0/kernel"


def test_of_a_loss_alone_the_output_is_that_of_the_last_matrix_op(data):
    params, x = data

    def loss(params, x):
        return jnp.mean(jnp.square(MLP().apply({"params": params}, x)))

    fn, qparams = quantize_model(loss, params, RULES)
    measured = report(fn, params, qparams, x, loss=lambda out: out, per_weight=False)
    exact, out = run(params, x, None), run(params, x, RULES)
    assert measured.output_db == pytest.approx(
        10 * np.log10(np.sum(exact**2) / np.sum((out - exact) ** 2)), abs=1e-2
    )
    assert measured.rows[0].alone_db is None


def test_of_other_parameters(data):
    params, x = data
    fn, qparams = quantize_model(MLP(), params, "w8")
    with pytest.raises(ValueError, match="Dense_0/kernel"):
        report(fn, {"Dense_1": params["Dense_1"]}, qparams, x)
    with pytest.raises(ValueError, match="hold no weight in few bits"):
        report(fn, qparams, params, x)


def test_of_an_nnx_module():
    model, x = nnx.Linear(32, 8, rngs=nnx.Rngs(0)), jnp.ones((2, 32))
    fn, qparams = quantize_model(model, None, "w8")
    measured = report(fn, nnx.state(model, nnx.Param), qparams, x, per_weight=False)
    assert [row.path for row in measured.rows] == ["kernel"]
    out = np.asarray(jax.jit(fn)(qparams, x), np.float64)
    exact = np.asarray(jax.jit(model)(x), np.float64)
    ratio = np.sum(exact**2) / np.sum((out - exact) ** 2)
    assert measured.output_db == pytest.approx(10 * np.log10(ratio), abs=1e-3)
