"""Counting through a table, against a binary search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.formats.table import count_below

INFINITY = int(np.float32(np.inf).view(np.int32))


def order_of(values):
    bits = np.asarray(values, np.float32).view(np.int32)
    return np.where(bits < 0, -(bits & np.int32(0x7FFFFFFF)), bits)


def halves(seed):
    """Each upper half with its ends and something between."""
    upper = np.arange(-(1 << 15), 1 << 15, dtype=np.int64) << 16
    lower = np.random.default_rng(seed).integers(1, 65535, (3, 1 << 16))
    order = np.concatenate([upper, upper + 65535, *(upper + lower)])
    return order[np.abs(order) <= INFINITY].astype(np.int32)


@pytest.mark.parametrize("count", [5, 15, 127, 255, 256, 1000])
@pytest.mark.parametrize("spread", ["even", "tens", "close"])
def test_equals_a_binary_search(count, spread):
    rng = np.random.default_rng(count)
    values = {
        "even": rng.uniform(-1, 1, count),
        "tens": np.sign(rng.normal(size=count)) * 10 ** rng.uniform(-30, 30, count),
        # Many thresholds among floats with the same upper half: no table, and still right.
        "close": 1 + rng.uniform(0, 2e-3, count),
    }[spread]
    thresholds = np.sort(order_of(values)).astype(np.int32)
    order = np.concatenate([halves(0), thresholds, thresholds - 1, thresholds + 1])
    got = jax.jit(lambda order: count_below(order, thresholds))(jnp.asarray(order))
    np.testing.assert_array_equal(got, np.searchsorted(thresholds, order, side="right"))
