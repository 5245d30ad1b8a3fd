"""Rounding onto a list of values, against a search through all of them."""

from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precis.formats import Codebook, Rounded, parse
from precis.formats.lookup import places_of, round_to_values, values_at
from tests.formats import oracle
from tests.formats.oracle import differing, enable_x64

BOOKS = {
    "nf4": parse("nf4"),
    "dynamic8": parse("dynamic8"),
    "two": Codebook("two", (-0.1, 0.3)),
    # Midpoints between neighbors that are no float32 numbers, and subnormal values.
    "odd": Codebook("odd", tuple(float(np.float32(v)) for v in (-7, -0.1, 0, 1e-8, 0.3, 1))),
    "close": Codebook("close", (1.0, 1 + 2.0**-23, 1 + 2.0**-22)),
    "tiny": Codebook("tiny", (-(2.0**-149), 0.0, 2.0**-149, 2.0**-130, 2.0**-126)),
    "long": Codebook("long", tuple(float(k) for k in range(-100, 101))),
}
MODES = ["nearest_even", "nearest_away", "toward_zero", "up", "down"]


def inputs(book: Codebook, dtype) -> np.ndarray:
    drawn = [oracle.draws(2**12, dtype), oracle.near(book, 2**12, dtype)]
    return np.concatenate([oracle.boundaries(book, dtype), *drawn])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", BOOKS)
def test_every_mode_equals_exact_comparisons(name, dtype):
    book = BOOKS[name]
    x = inputs(book, dtype)
    if 0.0 not in book.values:
        x = x[~np.isnan(x)]
    with enable_x64(dtype == np.float64):
        results = jax.jit(lambda x: {mode: round_to_values(x, book, mode) for mode in MODES})(x)
    for mode, got in results.items():
        want = oracle.rounded(x, Rounded(book, mode)).astype(dtype)
        assert not len(differing(got, want)), mode


@given(st.lists(st.floats(-8, 2, width=32), min_size=1, max_size=16))
def test_the_nearest_is_the_nearest(x):
    book = BOOKS["odd"]
    padded = np.resize(np.float32(x), 16)
    places = np.asarray(places_of(padded, book))
    for value, place in zip(padded.tolist(), places.tolist(), strict=True):
        distances = [abs(Fraction(value) - Fraction(v)) for v in book.values]
        assert distances.index(min(distances)) == place  # the first of two is the smaller one


def test_beyond_the_ends_lie_the_ends_and_nan_is_nearest_to_zero():
    x = np.float32([np.inf, -np.inf, 5, -5, np.nan, -np.nan])
    for mode in MODES:
        assert places_of(x, BOOKS["nf4"], mode).tolist() == [15, 0, 15, 0, 7, 7]
    assert values_at(places_of(x, BOOKS["two"]), BOOKS["two"], np.float32)[4] == np.float32(-0.1)


def test_values_are_at_their_places():
    for book in (BOOKS["nf4"], BOOKS["tiny"], BOOKS["long"]):
        places = np.arange(len(book.values))
        values = values_at(places, book, np.float32)
        assert np.asarray(values).tolist() == list(np.float32(book.values).tolist())
        assert places_of(values, book).tolist() == places.tolist()
