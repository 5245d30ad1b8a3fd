"""Random draws that depend on a seed and a step and on nothing that was drawn before."""

from __future__ import annotations

import numpy as np


def generator(seed: int, step: int) -> np.random.Generator:
    """A generator for step `step` under `seed`: counter-based, so any step can be asked for.

    The step is the highest word of Philox' 256-bit counter. Draws count up from the lowest, so
    two steps would have to draw 2^192 blocks before they met.
    """
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
