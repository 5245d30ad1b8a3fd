"""Verdicts on cases small enough to work out by hand (t is 4.303 and 2.920 with two degrees)."""

import math

import pytest

from precis.stats import Outcome, default_tolerance, judge

BASE = {0: 10.0, 1: 20.0, 2: 30.0}


def against_base(gaps, **options):
    arm = Outcome({seed: BASE[seed] + gap for seed, gap in enumerate(gaps)})
    options = {"tolerance": 1.0, "direction": "min"} | options
    return judge(arm, Outcome(BASE), **options)


# Gaps m - d, m, m + d have sd d: half widths are 2.484 d at 95% and 1.686 d at 90%.
@pytest.mark.parametrize(
    ("gaps", "kind", "detectable"),
    [
        ((-0.1, 0.0, 0.1), "within tolerance", None),
        ((0.4, 0.5, 0.6), "within tolerance", "worse"),
        ((-0.6, -0.5, -0.4), "within tolerance", "better"),
        ((0.4, 0.9, 1.4), "inconclusive", None),
        ((4.0, 5.0, 6.0), "worse", None),
        ((-6.0, -5.0, -4.0), "better", None),
        ((2.0, 5.0, 8.0), "inconclusive", None),
        # 95% reaches down to 5 - 2.484 * 1.611 = 0.998, 90% only to 2.284.
        ((3.389, 5.0, 6.611), "inconclusive", None),
        # 90% reaches up to 0.5 + 1.686 * 0.29 = 0.989, 95% to 1.220: still within.
        ((0.21, 0.5, 0.79), "within tolerance", None),
        ((0.0, 0.0, 0.0), "within tolerance", None),
    ],
)
def test_kinds(gaps, kind, detectable):
    verdict = against_base(gaps)
    assert (verdict.kind, verdict.detectable, verdict.n) == (kind, detectable, 3)
    assert (verdict.seeds_wanted is not None) == (kind == "inconclusive")


@pytest.mark.parametrize("gaps", [(0.4, 0.5, 0.6), (4.0, 5.0, 6.0), (-6.0, -5.0, -4.0)])
def test_max_says_of_the_metric_what_min_says_of_its_negative(gaps):
    arm = {seed: BASE[seed] + gap for seed, gap in enumerate(gaps)}
    negative = judge(
        Outcome({seed: -value for seed, value in arm.items()}),
        Outcome({seed: -value for seed, value in BASE.items()}),
        tolerance=1.0,
        direction="min",
    )
    verdict = against_base(gaps, direction="max")
    assert (verdict.kind, verdict.detectable) == (negative.kind, negative.detectable)


def test_the_default_tolerance_is_one_percent_of_the_baseline_and_says_so():
    assert default_tolerance({0: -50.0, 1: -150.0}) == 1.0
    verdict = against_base((0.0, 0.01, 0.02), tolerance=None)
    assert verdict.tolerance == pytest.approx(0.2)
    assert verdict.tolerance_is_default
    assert not against_base((0.0, 0.01, 0.02)).tolerance_is_default


@pytest.mark.parametrize("gaps", [(5.0,), (5.0, 5.1)])
def test_fewer_than_three_seeds_never_decide_and_say_so(gaps):
    verdict = against_base(gaps)
    assert verdict.kind == "inconclusive"
    assert verdict.reason == "fewer than 3 seeds"
    assert verdict.seeds_wanted >= 3


def test_a_diverged_seed_is_never_dropped():
    base = Outcome(dict.fromkeys(range(9), 1.0))
    values = dict.fromkeys(range(8), 1.0)
    verdict = judge(Outcome(values, frozenset({8})), base, tolerance=0.1, direction="min")
    assert (verdict.kind, verdict.diverged, verdict.n, verdict.gap) == ("diverges", 1, 9, None)
    assert verdict.rate.low < 1 / 9 < verdict.rate.high


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_a_divergence(value):
    verdict = judge(Outcome(BASE | {1: value}), Outcome(BASE), tolerance=1.0, direction="min")
    assert (verdict.kind, verdict.diverged) == ("diverges", 1)


def test_nothing_is_said_against_a_baseline_that_diverged():
    base = Outcome({0: 1.0, 1: 2.0}, frozenset({2}))
    verdict = judge(Outcome(BASE), base, tolerance=1.0, direction="min")
    assert verdict.kind == "withheld"
    assert verdict.reason == "the baseline diverged in 1 of 3 seeds"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.949, None])
def test_a_program_that_is_not_in_force_gets_no_verdict(share):
    verdict = judge(Outcome(BASE, in_force=share), Outcome(BASE), tolerance=1.0, direction="min")
    assert verdict.kind == "withheld"
    assert "matrix FLOPs" in verdict.reason
    swapped = judge(Outcome(BASE), Outcome(BASE, in_force=share), tolerance=1.0, direction="min")
    assert swapped.kind == "withheld"
    assert "baseline's" in swapped.reason


def test_not_in_force_outranks_divergence_and_the_count_stays():
    arm = Outcome({0: 1.0}, frozenset({1, 2}), in_force=0.5)
    verdict = judge(arm, Outcome(BASE), tolerance=1.0, direction="min")
    assert (verdict.kind, verdict.diverged, verdict.n) == ("withheld", 2, 3)


def test_no_result_is_inconclusive():
    verdict = judge(Outcome({}), Outcome({}), tolerance=None, direction="min")
    assert (verdict.kind, verdict.n, verdict.gap) == ("inconclusive", 0, None)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="'min' or 'max'"):
        against_base((0.0, 0.0, 0.0), direction="lower")
    with pytest.raises(ValueError, match="at least 0"):
        against_base((0.0, 0.0, 0.0), tolerance=-1.0)
