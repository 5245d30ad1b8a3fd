"""`smooth`: large inputs made small, and the weights that they meet larger by as much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats import exact_amax
from precis.ptq.parameters import float_parameters
from precis.ptq.statistics import Statistics
from precis.types import PyTree

_F32 = np.dtype(np.float32)


def smooth(params: PyTree, statistics: Statistics, *, alpha: float = 0.5) -> Statistics:
    """`statistics` of inputs that are divided, column by column, by what weights can take over.

    With X the magnitudes of a column of inputs and W those of the row of the weight that it meets,

        s = X^alpha / W^(1 - alpha),        x @ w == (x / s) @ (s · w)

    so that at 0.5 both have the same largest magnitude, √(X·W), in each column. A column of
    zeros keeps s = 1, and so does a row of zeros. A NaN stays one.

    >>> import jax.numpy as jnp
    >>> seen = Statistics({"w": jnp.full((1, 1), 16.0)}, {"w": jnp.float32([[16], [1]])}, {})
    >>> found = smooth({"w": jnp.ones((2, 3))}, seen)
    >>> found.smoothing["w"].tolist(), found.columns["w"].tolist(), found.amax["w"].tolist()
    ([[4.0], [1.0]], [[4.0], [1.0]], [[4.0]])

    Args:
        params: The parameters, in float: of linen, with or without other collections.
        statistics: What `calibrate` found.
        alpha: How much of the difficulty goes to the weights: 0 none of what is in inputs, 1 all.

    Returns:
        Statistics of x / s, with s as `smoothing`: `quantize_model(..., smoothing=it.smoothing)`,
        and `input_amax=it.amax` where inputs have a static scale.

    Raises:
        ValueError: `alpha` is not in 0..1, `statistics` are smoothed, or of another model.

    Source: Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is from 0 to 1, got {alpha}")
    if statistics.smoothing:
        raise ValueError("these statistics are of smoothed inputs: smooth those of calibrate()")
    weights = float_parameters(params)
    if odd := sorted(set(statistics.columns) - set(weights)):
        raise ValueError(f"statistics of {odd[0]} are of another model, which has no such path")
    both = {path: (weights[path], columns) for path, columns in statistics.columns.items()}
    smoothing = _vectors(both, alpha)
    columns = {path: x / smoothing[path] for path, x in statistics.columns.items()}
    largest = {path: _largest(columns[path], statistics.amax[path]) for path in columns}
    return replace(
        statistics, amax={**statistics.amax, **largest}, columns=columns, smoothing=smoothing
    )


@jax.jit
def _vectors(both: dict[str, tuple[Array, Array]], alpha: float) -> dict[str, Array]:
    def vector(weight: Any, inputs: Array) -> Array:
        outputs = tuple(axis for axis, size in enumerate(inputs.shape) if size == 1)
        rows = exact_amax(weight.astype(_F32), outputs)
        ratio = inputs**alpha / rows ** (1 - alpha)
        return jnp.where((inputs == 0) | (rows == 0), np.float32(1), ratio)

    return {path: vector(*pair) for path, pair in both.items()}


def _largest(columns: Array, like: Array) -> Array:
    axes = tuple(axis for axis, size in enumerate(like.shape) if size == 1)
    return exact_amax(columns, axes)
