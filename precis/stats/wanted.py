"""How many seeds would turn `inconclusive` into a verdict."""

from __future__ import annotations

import math

from precis.stats.interval import Estimate, t_quantile

# Below three seeds a t interval has one degree of freedom or none, and no verdict is given.
MIN_SEEDS = 3
# A verdict `within tolerance` is two one-sided tests at 5% (a 90% interval inside the tolerance);
# `worse` and `better` are two-sided at 5% (a 95% interval beyond it).
WITHIN_LEVEL = 0.90
BEYOND_LEVEL = 0.95
# Beyond this the honest answer is that seeds are not the way to decide.
_CEILING = 10**9


def seeds_to_decide(gap: Estimate, tolerance: float) -> int | None:
    """The smallest number of seeds, from `gap.n` up, at which the same mean and sd would decide.

    The t quantile is taken at the number asked about, not at today's. A mean inside the
    tolerance needs a 90% interval inside it, one outside a 95% interval wholly beyond.

    Args:
        gap: Paired differences so far.
        tolerance: Absolute, in the metric's unit, at least 0.

    Returns:
        At least 3; None if no number would do (the mean lies on the tolerance, or so near to it
        that 1e9 seeds are too few).

    >>> seeds_to_decide(Estimate.of([-0.1, 0.0, 0.1]), tolerance=0.1)
    5
    """
    if gap.n < 2:
        return MIN_SEEDS
    room = tolerance - abs(gap.mean)
    level = WITHIN_LEVEL if room >= 0 else BEYOND_LEVEL

    def decides(n: int) -> bool:
        half = t_quantile(n - 1, level) * gap.sd / math.sqrt(n)
        return half <= room if room >= 0 else half < -room

    # t / √n falls with n, so `decides` turns true once: double until it holds, then bisect.
    low = high = max(gap.n, MIN_SEEDS - 1)
    while not decides(high):
        low, high = high, high * 2
        if high > _CEILING:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return max(high, MIN_SEEDS)
