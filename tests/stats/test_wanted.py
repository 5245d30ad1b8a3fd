"""Seeds that would decide: checked from the definition, with scipy.stats' own quantiles."""

import math

import pytest
from scipy import stats

from precis.stats import Estimate, Outcome, judge, seeds_to_decide


def decides(mean, sd, n, tolerance):
    """Read off the definition, without the search."""
    error = sd / math.sqrt(n)
    if abs(mean) <= tolerance:
        return abs(mean) + stats.t.ppf(0.95, n - 1) * error <= tolerance
    return abs(mean) - stats.t.ppf(0.975, n - 1) * error > tolerance


@pytest.mark.parametrize("tolerance", [0.001, 0.02, 0.05, 0.09, 0.3])
@pytest.mark.parametrize("values", [(0.02, 0.1, -0.05), (-0.3, 0.1, 0.02, -0.01), (1.0, 1.5)])
def test_it_is_the_first_number_that_decides(values, tolerance):
    gap = Estimate.of(values)
    n = seeds_to_decide(gap, tolerance)
    assert n >= 3
    assert decides(gap.mean, gap.sd, n, tolerance)
    if n > max(3, gap.n):
        assert not decides(gap.mean, gap.sd, n - 1, tolerance)


def test_that_many_seeds_of_the_same_spread_do_decide():
    pattern = (0.5, -0.5)
    n = seeds_to_decide(Estimate.of(pattern * 2), 0.2)
    assert n > 4
    even = n + n % 2
    values = dict(enumerate(pattern * (even // 2)))
    zeros = dict.fromkeys(values, 0.0)
    verdict = judge(Outcome(values), Outcome(zeros), tolerance=0.2, direction="min")
    assert verdict.kind == "within tolerance"


def test_a_mean_on_the_tolerance_is_never_decided():
    assert seeds_to_decide(Estimate.of([0.0, 1.0, 2.0]), 1.0) is None


def test_one_seed_wants_at_least_three():
    assert seeds_to_decide(Estimate.of([0.5]), 0.1) == 3
