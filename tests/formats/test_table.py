"""Counting through a table, against a binary search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.formats.table import count_below, in_order


def halves(seed):
    """Each upper half with its ends and something between, as float32."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.random.default_rng(seed).integers(1, 65535, (3, 1 << 16), np.uint32)
    return np.concatenate([upper, upper | 65535, *(upper | lower)]).view(np.float32)


@pytest.mark.parametrize("count", [1, 2, 5, 15, 127, 255, 256, 1000])
def test_equals_a_binary_search(count):
    rng = np.random.default_rng(count)
    spreads = {
        "even": rng.uniform(-1, 1, count),
        "tens": np.sign(rng.normal(size=count)) * 10 ** rng.uniform(-44, 38, count),
        # Many thresholds among floats with the same upper half: no table, and still right.
        "close": 1 + rng.uniform(0, 2e-3, count),
        "negative": -rng.uniform(0, 1, count),
        "from zero": np.append(rng.uniform(0, 1, count - 1), 0),
    }
    inputs, thresholds, wants = {}, {}, {}
    for spread, values in spreads.items():
        values = np.sort(np.float32(values))
        around = [values, *(np.nextafter(values, np.float32(side)) for side in (-np.inf, np.inf))]
        x = np.concatenate([halves(0), *around])
        inputs[spread] = x = x[~np.isnan(x)]
        thresholds[spread] = np.asarray(in_order(jnp.asarray(values)))
        # NumPy compares subnormals as they are.
        wants[spread] = np.searchsorted(values, x, side="right")

    @jax.jit
    def counts(inputs):
        return {spread: count_below(x, thresholds[spread]) for spread, x in inputs.items()}

    got = counts(inputs)
    for spread, want in wants.items():
        np.testing.assert_array_equal(got[spread], want, err_msg=spread)
