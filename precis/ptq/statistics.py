"""`Statistics`: how large the inputs of each weight were seen to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jax import Array


@dataclass(frozen=True, eq=False)
class Statistics:
    """Magnitudes of what each weight is multiplied with, by the weight's path.

    All arrays are float32 and have the weight's axes, with 1 where they do not vary: for layers
    [L, n, m] that a scan runs over, `amax` is [L, 1, 1] and `columns` are [L, n, 1].

    Attributes:
        amax: The largest magnitude, one for each matrix; NaN if any input was.
        columns: The same for each input column, for products without a window.
        unseen: Why there is none of it for each other parameter of two axes or more.
        smoothing: What columns were divided by before they were measured; see `smooth`.
    """

    amax: Mapping[str, Array]
    columns: Mapping[str, Array]
    unseen: Mapping[str, str]
    smoothing: Mapping[str, Array] = field(default_factory=dict)

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """The paths of weights some of whose inputs were NaN or infinite; it fetches `amax`."""
        return tuple(p for p, x in self.amax.items() if not np.isfinite(np.asarray(x)).all())
