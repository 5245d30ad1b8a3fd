"""Places of the nearest values, against float64 distances and against a binary search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.formats import parse
from precis.formats.places import _thresholds, nearest_places, values_of
from precis.formats.spec import Codebook
from precis.formats.table import count_below

CODEBOOKS = ["dynamic8", "udynamic8", "nf4"]
FLOATS = ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e3m4", "e2m1", "e2m3", "e7m0fn", "e6m1fn"]
INTEGERS = ["int8", "int4", "uint8", "int8q6"]
NAMES = CODEBOOKS + FLOATS + INTEGERS


def nearest(x, grid):
    """The place whose value is nearest: float64 has midpoints of float32 neighbors exactly."""
    values = np.float64(values_of(grid))
    middles = (values[1:] + values[:-1]) / 2
    below, at_most = (np.searchsorted(middles, np.float64(x), side) for side in ("left", "right"))
    if isinstance(grid, Codebook):
        return below
    # At a tie the two differ, and one has an even code.
    zero = int(np.flatnonzero(values == 0)[0])
    return np.where((below - zero) % 2 == 0, below, at_most)


def delicate(grid):
    """Each upper half with its ends and something between, and all that is near a midpoint."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.random.default_rng(0).integers(1, 65535, 1 << 16, np.uint32)
    halves = np.concatenate([upper, upper | 65535, upper | lower]).view(np.float32)
    values = np.float64(values_of(grid))
    middles = np.float32((values[1:] + values[:-1]) / 2)
    ups, downs = (np.nextafter(middles, np.float32(side)) for side in (np.inf, -np.inf))
    x = np.concatenate([halves, middles, ups, downs, values_of(grid)])
    return x[~np.isnan(x)]


@pytest.mark.world
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_nearest(name):
    grid = parse(name)
    x = delicate(grid)
    got = jax.jit(nearest_places, static_argnums=1)(x, grid)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, nearest(x, grid))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e4m3fnuz", "int8"])
def test_of_every_float32(name):
    # In two ways: by rounding, and by the table of a codebook. Of this nothing is left to ask: in
    # an upper half it counts one threshold more at most, and above are its ends and that one.
    grid = parse(name)
    thresholds = _thresholds(grid)

    @jax.jit
    def differ(upper):
        bits = (upper << 24) + jnp.arange(1 << 24, dtype=np.uint32)
        x = jax.lax.bitcast_convert_type(bits, np.float32)
        differs = nearest_places(x, grid).astype(np.int32) != count_below(x, thresholds)
        return jnp.sum(differs & ~jnp.isnan(x))

    assert sum(int(differ(np.uint32(upper))) for upper in range(256)) == 0
