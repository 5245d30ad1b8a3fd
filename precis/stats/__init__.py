"""Statistics over seeds, on NumPy and SciPy: intervals, paired gaps, and the verdict."""

from precis.stats.interval import Estimate, Interval, paired, rate_interval
from precis.stats.verdict import Direction, Kind, Outcome, Verdict, default_tolerance, judge
from precis.stats.wanted import seeds_to_decide

__all__ = [
    "Direction",
    "Estimate",
    "Interval",
    "Kind",
    "Outcome",
    "Verdict",
    "default_tolerance",
    "judge",
    "paired",
    "rate_interval",
    "seeds_to_decide",
]
