"""Quantized nodes put together from their arrays, each checked against what was written of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import jax.numpy as jnp
import numpy as np

from precis.formats import ScaledFormat, parse
from precis.quant.kernel import Kernel, Stored
from precis.quant.qtensor import QTensor
from precis.quant.storage import is_packed, storage_dtype

_PARTS = tuple(
    field.name
    for field in fields(QTensor)
    if field.name in ("values", "scale", "zero_point", "tensor_scale")
)
# Of a kernel, beside its weight.
_INPUTS = ("input_amax", "smoothing")


def part_names(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Where a node with these static facts has its arrays; some of them may be missing."""
    if "outliers" not in facts:
        return _PARTS
    return (*(f"weight/{name}" for name in _PARTS), *_INPUTS)


def node_of(path: str, parts: Mapping[str, Any], facts: Mapping[str, Any]) -> Stored:
    """The node whose static facts are `facts`.

    Args:
        path: Where it is, for errors.
        parts: Its arrays, or their shapes, by `part_names`.
        facts: As `static_facts` of a `QTensor` or a `Kernel` gave them.

    Raises:
        ValueError: Parts are missing, or have not the shapes and dtypes that `facts` ask for.
    """
    if "outliers" not in facts:
        return _qtensor(path, parts, facts)
    weight = {name: parts[f"weight/{name}"] for name in _PARTS if f"weight/{name}" in parts}
    kernel = Kernel(
        _qtensor(f"{path}/weight", weight, facts),
        *(parts.get(name) for name in _INPUTS),
        outliers=facts["outliers"],
        threshold=facts["threshold"],
    )
    for name in _INPUTS:
        _check_broadcast(f"{path}/{name}", getattr(kernel, name), kernel.shape)
    return kernel


def _qtensor(path: str, parts: Mapping[str, Any], facts: Mapping[str, Any]) -> QTensor:
    fmt = parse(facts["format"])
    missing = [name for name in ("values", "scale") if name not in parts]
    if missing or not isinstance(fmt, ScaledFormat):
        raise ValueError(f"{path}: {', '.join(missing) or fmt} is missing or unknown")
    packed = facts["packed"]
    arrays: dict[str, Any] = {name: parts.get(name) for name in _PARTS}
    q = QTensor(
        **arrays,
        format=fmt,
        axes=tuple(facts["axes"]),
        packed=None if packed is None else (packed[0], packed[1]),
        dtype=np.dtype(jnp.dtype(facts["dtype"])),
    )
    _check(path, q)
    return q


def _check(path: str, q: QTensor) -> None:
    """That the arrays have the dtypes and shapes that the facts ask for."""
    grid = q.format.grid
    scale = np.dtype(np.float32) if q.format.scale is None else storage_dtype(q.format.scale)
    wanted = {"values": np.dtype(np.uint8) if is_packed(grid) else storage_dtype(grid)}
    wanted |= {"scale": scale, "zero_point": storage_dtype(grid), "tensor_scale": np.float32}
    for name, dtype in wanted.items():
        part = getattr(q, name)
        if part is not None and (part.dtype != dtype or len(part.shape) != len(q.values.shape)):
            raise ValueError(
                f"{path}/{name} is {part.dtype}{list(part.shape)}, {np.dtype(dtype)} with "
                f"{len(q.values.shape)} axes is wanted for {q.format}"
            )
    if any(not -q.ndim <= axis < 0 for axis in (*q.axes, *(q.packed or ())[:1])):
        raise ValueError(f"{path}: axes {list(q.axes)} of an array with {q.ndim} axes")
    if q.packed is not None and q.values.shape[q.packed[0]] != -(-q.packed[1] * grid.bits // 8):
        raise ValueError(
            f"{path}/values is {list(q.values.shape)}, wanted {q.packed[1]} codes of {grid.bits} "
            f"bits along axis {q.packed[0]}"
        )
    shape = _groups_shape(q)
    for name in ("scale", "zero_point"):
        part = getattr(q, name)
        if part is not None and tuple(part.shape) != shape:
            raise ValueError(f"{path}/{name} is {list(part.shape)}, wanted {list(shape)}")
    _check_broadcast(f"{path}/tensor_scale", q.tensor_scale, q.shape)


def _check_broadcast(path: str, part: Any, shape: tuple[int, ...]) -> None:
    """That a part has, along each axis, one entry or as many as the array."""
    if part is None:
        return
    pairs = zip(part.shape, shape, strict=False)
    fits = len(part.shape) == len(shape) and all(own in (1, size) for own, size in pairs)
    if not fits or part.dtype != np.float32:
        raise ValueError(
            f"{path} is {part.dtype}{list(part.shape)}, wanted float32 that broadcasts to "
            f"{list(shape)}"
        )


def _groups_shape(q: QTensor) -> tuple[int, ...]:
    """The shape of the scales of `q`."""
    shape = list(q.shape)
    for axis in q.axes:
        block = min(q.format.block or shape[axis], max(shape[axis], 1))
        shape[axis] = -(-shape[axis] // block) if q.format.block else 1
    return tuple(shape)
