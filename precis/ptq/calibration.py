"""`calibrate`: how large the inputs of each weight are, from a few batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.adapters import call_of
from precis.formats import exact_amax
from precis.ptq.parameters import float_parameters
from precis.ptq.statistics import Statistics
from precis.ptq.weights import FLOAT
from precis.quant import is_stored
from precis.types import PyTree
from precis.walk import Product, Reading, audit, observed

_F32 = np.dtype(np.float32)


def calibrate(model: Any, params: PyTree, batches: Iterable[Any], **kwargs: Any) -> Statistics:
    """The largest magnitudes of each weight's inputs, over a few batches, in the float model.

    The model is computed in float32, as a pure function that is compiled once for each shape of
    batch; layers that a `scan` runs over get a statistic each. A NaN makes the largest magnitude
    NaN, and every scale that is made of it: see `Statistics.nonfinite`.

    >>> import jax.numpy as jnp
    >>> weights = {"kernel": jnp.ones((3, 2))}
    >>> found = calibrate(lambda p, x: x @ p["kernel"], weights, [jnp.float32([[1, -4, 2]])])
    >>> found.amax["kernel"].tolist(), found.columns["kernel"].tolist()
    ([[4.0]], [[1.0], [4.0], [2.0]])

    Args:
        model: As of `quantize_model`.
        params: Its parameters, in float; likewise.
        batches: What the model takes after the parameters: an array each, or a tuple of arguments.
        **kwargs: Constants that each call of the model is given.

    Raises:
        ValueError: No batches, or parameters that are in few bits already.
        TypeError: A model of another kind.
    """
    call, tree = call_of(model, params)
    if low := [path for path, leaf in float_parameters(tree).items() if is_stored(leaf)]:
        raise ValueError(f"parameters in float are wanted to calibrate on; {low[0]} is in few bits")

    @jax.jit
    def measure(tree: PyTree, *args: Any) -> dict[str, Seen | None]:
        _, readings = observed(lambda p, *xs: call(p, *xs, **kwargs), FLOAT, _look)(tree, *args)
        return _by_path(readings, float_parameters(tree))

    found: dict[str, Seen | None] | None = None
    args: tuple[Any, ...] = ()
    for batch in batches:
        args = batch if isinstance(batch, tuple) else (batch,)
        seen = measure(tree, *args)
        found = seen if found is None else jax.tree.map(jnp.maximum, found, seen)
    if found is None:
        raise ValueError("batches are wanted to calibrate on, got none")
    own = {path: seen for path, seen in found.items() if seen is not None}
    plan = audit(lambda p, *xs: call(p, *xs, **kwargs), tree, *args, policy=FLOAT)
    named = {site.site.path for site in plan.sites}
    unseen = {
        path: _reason(path, found, named)
        for path, leaf in float_parameters(tree).items()
        if leaf.ndim >= 2 and path not in own
    }
    columns = {path: seen.columns for path, seen in own.items() if seen.columns is not None}
    return Statistics({path: seen.amax for path, seen in own.items()}, columns, unseen)


class Seen(NamedTuple):
    """The largest magnitudes of a matrix op's inputs.

    Attributes:
        amax: Of all, [] and one more axis in front for each scan; later the weight's axes.
        columns: For each position along what is summed, as the weight but 1 along its outputs;
            None of what has a window.
    """

    amax: Array
    columns: Array | None


def _look(op: Product) -> Seen | None:
    """What is read of a matrix op; None if it has no weight, or nothing else."""
    if not op.has_one_weight:
        return None
    side = 1 if op.roles.lhs.is_weight else 0
    x, kernel = (op.lhs, op.rhs)[side].astype(_F32), (op.lhs, op.rhs)[1 - side]
    if op.site.primitive != "dot_general":
        return Seen(exact_amax(x, tuple(range(x.ndim))).reshape(()), None)
    numbers = op.params["dimension_numbers"]
    (summed, batch), own = ([pair[side] for pair in numbers], 1 - side)
    pairs = [*zip(numbers[0][own], summed, strict=True), *zip(numbers[1][own], batch, strict=True)]
    free = tuple(axis for axis in range(x.ndim) if axis not in (*summed, *batch))
    largest = exact_amax(x, free)
    order = [axis for _, axis in sorted(pairs)]
    flat = jnp.transpose(largest, (*order, *free))
    shape = [1] * kernel.ndim
    for axis, other in pairs:
        shape[axis] = x.shape[other]
    columns = flat.reshape(shape)
    return Seen(exact_amax(columns, tuple(range(columns.ndim))).reshape(()), columns)


def _by_path(readings: tuple[Reading, ...], params: dict[str, Any]) -> dict[str, Seen | None]:
    """Statistics with the axes of parameters; None where these cannot be told."""
    found: dict[str, Seen | None] = {}
    for reading in readings:
        path = reading.site.path
        if reading.seen is None:
            continue
        seen = None
        if reading.layout is not None and path in params:
            seen = _placed(reading, params[path].ndim)
        before = found.get(path, seen)
        if before is None or seen is None or not _is_alike(before, seen):
            found[path] = None
        else:
            found[path] = jax.tree.map(jnp.maximum, before, seen)
    return found


def _is_alike(a: Seen, b: Seen) -> bool:
    return jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)


def _placed(reading: Reading, ndim: int) -> Seen:
    layout, seen = reading.layout, reading.seen
    assert layout is not None
    shared = tuple(i for i, axis in enumerate(layout.stacked) if axis is None)
    stacked = [axis for axis in layout.stacked if axis is not None]

    def with_axes(x: Array, axes: list[int]) -> Array:
        """`x`, its axes put where they are in the parameter."""
        x = exact_amax(x, shared).squeeze(shared)
        moved = jnp.transpose(x, sorted(range(x.ndim), key=axes.__getitem__))
        sizes = dict(zip(axes, x.shape, strict=True))
        return moved.reshape([sizes.get(axis, 1) for axis in range(ndim)])

    columns = None if seen.columns is None else with_axes(seen.columns, [*stacked, *layout.axes])
    return Seen(with_axes(seen.amax, stacked), columns)


def _reason(path: str, found: dict[str, Seen | None], named: set[str]) -> str:
    if path in found:
        return "its matrix ops take it in several shapes, or rearranged"
    if path in named:
        return "its matrix op is in a while loop or a shard_map, which are not entered"
    return "no matrix op takes it that is seen"
