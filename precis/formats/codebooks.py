"""Lists of values from their published constructions, to the last bit of the published code."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

_F32 = np.float32


def normal_float(bits: int) -> tuple[float, ...]:
    """The 2^bits values of NormalFloat, in [-1, 1], ascending, exact in float32.

    They are quantiles of N(0, 1), evenly spaced in probability, scaled to ±1: 2^(bits-1) from
    the positive half and one less from the negative one, with an exact zero between them. The
    outermost probability lies halfway between those that the two halves would take alone.

    Source: Dettmers et al., QLoRA, arXiv:2305.14314, section 3 and appendix E.
    """
    half = 2 ** (bits - 1)
    # The authors' code has seven digits of it, and float32 steps: the published values do, too.
    outermost = round(1 - (1 / (2 * half - 1) + 1 / (2 * half)) / 4, 7)
    positive = _quantiles(outermost, half)
    negative = -_quantiles(outermost, half - 1)
    values = np.concatenate([negative, [_F32(0)], positive])
    return _ascending(values / positive[0])


def _quantiles(outermost: float, count: int) -> np.ndarray:
    """`count` positive quantiles of N(0, 1), evenly spaced in probability, descending."""
    probabilities = _evenly(outermost, 0.5, count + 1)[:-1]
    return np.array([NormalDist().inv_cdf(float(p)) for p in probabilities], _F32)


def dynamic_map(bits: int, *, signed: bool) -> tuple[float, ...]:
    """The 2^bits values of the dynamic (tree) map, in [-1, 1] or [0, 1], ascending.

    A code counts leading zeros for a decimal exponent, and what bits remain divide the decade
    [0.1, 1] evenly, each value in the middle of its part; 0 and 1 are added. So the largest
    decade has the finest steps, and the smallest, 10^-(bits - 2), one part on each side.

    Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861,
    section 2.2 and appendix F.
    """
    values = [np.array([0, 1], _F32)]
    for exponent in range(bits - 1):
        edges = _evenly(0.1, 1.0, 2 ** (exponent + int(not signed)) + 1)
        middles = (edges[:-1] + edges[1:]) / _F32(2) * _F32(10.0 ** (exponent - bits + 2))
        values += [middles, -middles] if signed else [middles]
    return _ascending(np.concatenate(values))


def _evenly(start: float, stop: float, count: int) -> np.ndarray:
    """`count` float32 numbers from `start` to `stop`, each half stepped from its own end."""
    step = (_F32(stop) - _F32(start)) / _F32(count - 1)
    places = np.arange(count, dtype=_F32)
    forward = _F32(start) + step * places
    return np.where(places < count // 2, forward, _F32(stop) - step * places[::-1])


def _ascending(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.sort(values).astype(_F32).tolist())
