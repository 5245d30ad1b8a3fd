"""Figures as text: aligned, signed, and never more exact than they are."""

import math

import pytest

from precis.report.words import byte_unit, decimals, in_unit, names, number, percent, short, times


@pytest.mark.parametrize(
    ("x", "places", "signed", "text"),
    [
        (1.23456, 2, False, "1.23"),
        (-1.23456, 2, True, "−1.23"),
        (1.23456, 2, True, "+1.23"),
        (-0.001, 2, True, "0.00"),
        (None, 2, True, "–"),
        (math.nan, 2, False, "–"),
        (-math.inf, 2, False, "−∞"),
    ],
)
def test_number(x, places, signed, text):
    assert number(x, places, signed=signed) == text


def test_decimals_follow_the_narrowest_interval_within_five_digits():
    assert decimals([0.5, 0.03], [1.0]) == 2
    assert decimals([1e-9], [1.0]) == 4
    assert decimals([0.03], [12345.0]) == 0
    assert decimals([], []) == 4
    assert decimals([math.inf, 0.0], [2.0, None]) == 4


@pytest.mark.parametrize("x", [0.0, 0.001, 0.004, 0.5, 0.994, 0.996, 1.0])
def test_only_all_is_a_hundred_percent_and_only_nothing_is_zero(x):
    assert (percent(x) == "100%") == (x == 1)
    assert (percent(x) == "0%") == (x == 0)


def test_sizes_share_a_unit():
    unit = byte_unit([2**20 * 3, 2**19, None])
    assert unit[1] == "MiB"
    assert [in_unit(size, unit) for size in (2**20 * 3, 2**19, None)] == ["3.00", "0.50", "–"]


def test_sentences():
    assert names(["a", "b", "c"]) == "`a`, `b` and `c`"
    assert names(["a"]) == "`a`"
    assert short(-0.01234) == "−0.012"
    assert (times(0.614), times(12.3), times(None)) == ("0.61×", "12×", "–")
