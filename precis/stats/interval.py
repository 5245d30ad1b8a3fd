"""Means over seeds, paired differences and rates, each with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# scipy.special and not scipy.stats: it imports in a tenth of the time, and leaves scipy.stats to
# the tests as an independent oracle.
from scipy.special import betaincinv, stdtrit


class Interval(NamedTuple):
    """A closed interval of the real line.

    Attributes:
        low: Lower end; -inf where nothing is known.
        high: Upper end; inf where nothing is known.
    """

    low: float
    high: float

    def excludes(self, x: float) -> bool:
        """Whether `x` lies strictly outside."""
        return x < self.low or x > self.high

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a sample of seeds says about a mean.

    Attributes:
        values: One float64 for each seed, at least one, in the order of the seeds.
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Estimate:
        """The estimate from any iterable of numbers.

        Raises:
            ValueError: There is no value: the mean of nothing is not a number.
        """
        values = tuple(float(value) for value in values)
        if not values:
            raise ValueError("an estimate wants at least one value, got none")
        return cls(values)

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Arithmetic mean, summed in float64."""
        return float(np.mean(self.values))

    @property
    def sd(self) -> float:
        """Sample standard deviation (n - 1 below); NaN for one seed."""
        return float(np.std(self.values, ddof=1)) if self.n > 1 else math.nan

    @property
    def rms(self) -> float:
        """Root of the mean square: the size of a typical value, whatever its sign."""
        return math.sqrt(float(np.mean(np.square(self.values))))

    def interval(self, level: float = 0.95) -> Interval:
        """Student's t interval for the mean: `mean ± t · sd / √n` with n - 1 degrees of freedom.

        One seed says nothing about its own spread, so its interval is the whole line.

        >>> low, high = Estimate.of([1.0, 2.0, 3.0]).interval()
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
        """
        if self.n < 2:
            return Interval(-math.inf, math.inf)
        half = t_quantile(self.n - 1, level) * self.sd / math.sqrt(self.n)
        return Interval(self.mean - half, self.mean + half)


def t_quantile(degrees: int, level: float) -> float:
    """How many standard errors a two-sided t interval reaches to each side."""
    return float(stdtrit(degrees, 0.5 + level / 2))


def paired(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """The differences `arm - baseline`, seed by seed, over the seeds that both have.

    Initialization and batches are the same within a seed, so their share of the variance cancels.

    Args:
        arm: Metric by seed.
        baseline: Metric by seed.

    Returns:
        The differences in the order of the seeds; None if no seed is in both.

    >>> paired({0: 1.5, 1: 2.5, 2: 9.0}, {0: 1.0, 1: 2.0}).values
    (0.5, 0.5)
    """
    seeds = sorted(arm.keys() & baseline.keys())
    return Estimate.of(arm[seed] - baseline[seed] for seed in seeds) if seeds else None


def rate_interval(k: int, n: int, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval for a rate of which `k` of `n` were seen.

    It never covers less than it says, at the price of being wide; shorter intervals (Wilson's)
    fall below their level at the 3 to 5 seeds that a sweep has.

    >>> low, high = rate_interval(3, 3)
    >>> round(low, 3), high
    (0.292, 1.0)

    Raises:
        ValueError: Not `0 <= k <= n` with n at least 1.

    Source: Clopper and Pearson 1934, through the beta distribution's quantiles.
    """
    if not (n >= 1 and 0 <= k <= n):
        raise ValueError(f"a rate wants 0 <= k <= n and n >= 1, got k={k}, n={n}")
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return Interval(low, high)
