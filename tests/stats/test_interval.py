"""Intervals against scipy.stats, which the library itself does not import."""

import math

import numpy as np
import pytest
from scipy import stats

from precis.stats import Estimate, paired, rate_interval


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("level", [0.90, 0.95])
def test_mean_interval_is_the_one_sample_t_interval(n, level):
    values = np.random.default_rng(n).normal(3.0, 2.0, n)
    want = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    assert Estimate.of(values).interval(level) == pytest.approx((want.low, want.high), rel=1e-12)


def test_paired_interval_is_the_related_t_interval_and_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 10, 6)
    arm, base = shared + 0.5 + rng.normal(0, 0.1, 6), shared + rng.normal(0, 0.1, 6)
    gap = paired(dict(enumerate(arm)), dict(enumerate(base)))
    want = stats.ttest_rel(arm, base).confidence_interval(0.95)
    assert gap.interval() == pytest.approx((want.low, want.high), rel=1e-9)
    unpaired = stats.ttest_ind(arm, base).confidence_interval(0.95)
    assert gap.interval().half_width < (unpaired.high - unpaired.low) / 20


def test_only_seeds_that_both_have_are_paired_whatever_their_order():
    assert paired({3: 5.0, 1: 2.0, 7: 9.0}, {1: 1.0, 3: 3.0, 8: 0.0}).values == (1.0, 2.0)
    assert paired({1: 1.0}, {2: 1.0}) is None


def test_one_seed_says_nothing_of_its_spread():
    estimate = Estimate.of([4.0])
    assert estimate.mean == 4.0
    assert math.isnan(estimate.sd)
    assert estimate.interval() == (-math.inf, math.inf)


def test_an_estimate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        Estimate.of([])


def test_rms_is_of_size_and_not_of_sign():
    assert Estimate.of([3.0, -4.0]).rms == pytest.approx(math.sqrt(12.5))


@pytest.mark.parametrize(("k", "n"), [(0, 3), (1, 3), (3, 3), (2, 5), (7, 40)])
def test_rate_interval_is_the_exact_binomial_one(k, n):
    want = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert rate_interval(k, n) == pytest.approx((want.low, want.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (4, 3), (-1, 3)])
def test_an_impossible_rate_is_refused(k, n):
    with pytest.raises(ValueError, match="k <= n"):
        rate_interval(k, n)
