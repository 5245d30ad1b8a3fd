"""Rearranges a `QTensor` without opening it: its arrays move together, and its axes with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

if TYPE_CHECKING:
    from precis.quant.qtensor import QTensor


def spread(x: Array, q: QTensor) -> Array:
    """One number for each group, as one for each entry, or what broadcasts to it."""
    if q.format.block is None:
        return x
    (axis,) = q.axes
    length = q.shape[axis]
    long = jnp.repeat(x, min(q.format.block, max(length, 1)), axis=axis)
    return lax.slice_in_dim(long, 0, length, axis=axis + q.ndim)


def transpose(q: QTensor, *axes: int | Sequence[int]) -> QTensor:
    """See `QTensor.transpose`."""
    order = _order(q, axes)
    place = {old: new - q.ndim for new, old in enumerate(order)}
    moved = _each(q, lambda x, _: x.transpose(order))
    packed = q.packed and (place[q.ndim + q.packed[0]], q.packed[1])
    return replace(moved, axes=tuple(sorted(place[q.ndim + a] for a in q.axes)), packed=packed)


def _order(q: QTensor, axes: tuple[Any, ...]) -> list[int]:
    given = axes[0] if len(axes) == 1 and isinstance(axes[0], Sequence) else axes
    order = [operator.index(a) for a in given] or list(reversed(range(q.ndim)))
    order = [a + q.ndim if a < 0 else a for a in order]
    if sorted(order) != list(range(q.ndim)):
        raise ValueError(f"{order} is no order of the axes of a QTensor {list(q.shape)}")
    return order


def take(q: QTensor, indices: Array, axis: int) -> QTensor:
    """See `QTensor.take`."""
    indices, at = jnp.asarray(indices), _axis(q, axis)
    if at in _held(q):
        raise ValueError(
            f"take along axis {axis} of a QTensor whose {_what(q, at)}: dequantize it first, or "
            "quantize it along another axis"
        )
    added = indices.ndim - 1

    def rows(x: Array, _: bool) -> Array:
        if x.shape[at] == 1 < q.shape[at]:
            return x.reshape(
                *x.shape[: at + q.ndim], *[1] * indices.ndim, *x.shape[at + q.ndim + 1 :]
            )
        return jnp.take(x, indices, axis=at)

    return replace(_each(q, rows), axes=_shifted(q.axes, at, added), packed=_repacked(q, at, added))


def index(q: QTensor, given: Any) -> QTensor:
    """See `QTensor.__getitem__`."""
    items = _full(q, given if isinstance(given, tuple) else (given,))
    for axis, item in zip(range(-q.ndim, 0), items, strict=True):
        if not _is_all(item, q.shape[axis]) and axis in _held(q) and not _is_whole(q, axis, item):
            raise ValueError(
                f"index {item} on axis {axis} of a QTensor whose {_what(q, axis)}: take all of "
                "it, or dequantize it first"
            )

    def one(x: Array, is_scale: bool) -> Array:
        return x[tuple(_item(q, x, axis, items[axis], is_scale) for axis in range(-q.ndim, 0))]

    out, axes, packed = _each(q, one), q.axes, q.packed
    for axis, item in zip(range(-q.ndim, 0), items, strict=True):
        if not isinstance(item, slice):
            axes = tuple(a for a in axes if a != axis)
            axes = tuple(a + 1 if a < axis else a for a in axes)
            packed = packed and (packed[0] + int(packed[0] < axis), packed[1])
    return replace(out, axes=axes, packed=packed)


def _full(q: QTensor, items: tuple[Any, ...]) -> list[Any]:
    """One integer or slice for each axis."""
    for item in items:
        if not (item is Ellipsis or isinstance(item, slice) or _is_integer(item)):
            raise TypeError(
                f"a QTensor is indexed by integers and slices, got {item!r}: take(indices, axis) "
                "gathers"
            )
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    at = dots[0] if dots else len(items)
    missing = q.ndim - len(items) + len(dots)
    if missing < 0 or len(dots) > 1:
        raise IndexError(f"too many indices for a QTensor {list(q.shape)}: {items}")
    return [*items[:at], *[slice(None)] * missing, *items[at + 1 :]]


def _item(q: QTensor, x: Array, axis: int, item: Any, is_scale: bool) -> Any:
    """The index of `x`, one of the arrays of `q`, for that of `q` itself."""
    if not is_scale or x.shape[axis] == q.shape[axis] or _is_all(item, q.shape[axis]):
        return item
    if x.shape[axis] == 1:
        return item if isinstance(item, slice) and _is_all(item, q.shape[axis]) else _first(item)
    assert q.format.block is not None
    start, stop, _ = item.indices(q.shape[axis])
    return slice(start // q.format.block, -(-stop // q.format.block))


def _first(item: Any) -> Any:
    return slice(0, 1) if isinstance(item, slice) else 0


def _is_whole(q: QTensor, axis: int, item: Any) -> bool:
    """Whether an index takes whole blocks; never true of packed axes."""
    if q.packed is not None and axis == q.packed[0]:
        return False
    if q.format.block is None or not isinstance(item, slice):
        return q.format.block is None
    start, stop, step = item.indices(q.shape[axis])
    ends = stop == q.shape[axis] or stop % q.format.block == 0
    return step == 1 and start < stop and start % q.format.block == 0 and ends


def reshape(q: QTensor, *shape: int | Sequence[int]) -> QTensor:
    """See `QTensor.reshape`."""
    given: Any = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
    whole = jax.ShapeDtypeStruct(q.shape, np.bool_)
    new = jax.eval_shape(lambda x: x.reshape(given), whole).shape
    if q.size == 0 and new != q.shape:
        raise ValueError(f"a QTensor without entries, {list(q.shape)}, is not reshaped")
    groups = {a + q.ndim for a in q.axes}
    axes: list[int] = []
    packed, pieces = None, _pieces(q.shape, new)
    for piece in pieces:
        inside = groups.intersection(piece.before)
        if not piece.is_kept and (inside not in (set(), set(piece.before)) or _is_fixed(q, piece)):
            raise ValueError(
                f"reshape of a QTensor {list(q.shape)} to {list(new)} parts what "
                f"{q.format} keeps together along {list(q.axes)}: dequantize it first"
            )
        if not piece.is_kept:
            axes += piece.after if inside else []
            continue
        for old, place in zip(piece.before, piece.after, strict=True):
            axes += [place] if old in inside else []
            if q.packed is not None and q.packed[0] + q.ndim == old:
                packed = (place - len(new), q.packed[1])

    def one(x: Array, _: bool) -> Array:
        sizes: list[int] = []
        for piece in pieces:
            own = [x.shape[a] for a in piece.before]
            other = [1 if math.prod(own) == 1 else new[a] for a in piece.after]
            sizes += own if piece.is_kept else other
        return x.reshape(sizes)

    return replace(_each(q, one), axes=tuple(sorted(a - len(new) for a in axes)), packed=packed)


class _Piece(NamedTuple):
    """Neighboring axes before and after a reshape that hold the same entries."""

    before: list[int]
    after: list[int]
    is_kept: bool


def _pieces(old: tuple[int, ...], new: tuple[int, ...]) -> list[_Piece]:
    """A reshape in parts as small as can be; axes of size 1 come and go by themselves."""
    pieces: list[_Piece] = []
    i = j = 0
    while i < len(old) or j < len(new):
        is_one = [i < len(old) and old[i] == 1, j < len(new) and new[j] == 1]
        before = [i] if i < len(old) and is_one != [False, True] else []
        after = [j] if j < len(new) and is_one != [True, False] else []
        i, j = i + len(before), j + len(after)
        while (left := math.prod(old[a] for a in before)) != (
            right := math.prod(new[a] for a in after)
        ):
            if left < right:
                before.append(i)
                i += 1
            else:
                after.append(j)
                j += 1
        sizes = [old[a] for a in before], [new[a] for a in after]
        pieces.append(_Piece(before, after, sizes[0] == sizes[1]))
    return pieces


def _is_fixed(q: QTensor, piece: _Piece) -> bool:
    """Whether axes hold blocks or bytes, or only in part share a tensor's scale."""
    axes = piece.before
    fixed = {a + q.ndim for a in q.axes} if q.format.block else set()
    fixed |= {q.packed[0] + q.ndim} if q.packed else set()
    if q.tensor_scale is not None:
        sizes = [q.tensor_scale.shape[a] for a in axes]
        if sizes != [q.shape[a] for a in axes] and math.prod(sizes) != 1:
            return True
    return bool(fixed.intersection(axes))


def _each(q: QTensor, fn: Callable[[Array, bool], Array]) -> QTensor:
    """`q` with `fn` of each array, and whether it is one of scales."""
    zero, whole = q.zero_point, q.tensor_scale
    return replace(
        q,
        values=fn(q.values, False),
        scale=fn(q.scale, True),
        zero_point=zero if zero is None else fn(zero, True),
        tensor_scale=whole if whole is None else fn(whole, True),
    )


def _held(q: QTensor) -> set[int]:
    """Axes along which entries depend on their neighbors, from the end."""
    return {*q.axes, *([q.packed[0]] if q.packed else [])}


def _what(q: QTensor, axis: int) -> str:
    if q.packed is not None and axis == q.packed[0]:
        return f"codes of {q.format.bits} bits share bytes along it"
    return f"{f'blocks of {q.format.block}' if q.format.block else 'groups'} run along it"


def _axis(q: QTensor, axis: int) -> int:
    found = operator.index(axis)
    if not -q.ndim <= found < q.ndim:
        raise ValueError(f"axis {axis} is none of a QTensor {list(q.shape)}")
    return found - q.ndim if found >= 0 else found


def _shifted(axes: tuple[int, ...], at: int, added: int) -> tuple[int, ...]:
    """Axes after so many were added at `at`."""
    return tuple(a - added if a < at else a for a in axes)


def _repacked(q: QTensor, at: int, added: int) -> tuple[int, int] | None:
    return q.packed and (_shifted((q.packed[0],), at, added)[0], q.packed[1])


def _is_integer(item: Any) -> bool:
    if isinstance(item, bool | np.bool_):
        return False
    if isinstance(item, int | np.integer):
        return True
    return getattr(item, "ndim", None) == 0 and jnp.issubdtype(item.dtype, jnp.integer)


def _is_all(item: Any, length: int) -> bool:
    return isinstance(item, slice) and item.indices(length) == (0, length, 1)
