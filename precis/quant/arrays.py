"""A tree with `QTensor`s as plain arrays and a manifest, which any file format can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from precis.formats import ScaledFormat, parse
from precis.quant.qtensor import QTensor
from precis.quant.storage import is_packed, storage_dtype
from precis.tree import leaves_with_paths, path_str, plain_dtype, static_facts
from precis.types import PyTree

_VERSION = 1
_PARTS = tuple(
    field.name
    for field in fields(QTensor)
    if field.name in ("values", "scale", "zero_point", "tensor_scale")
)


class Arrays(NamedTuple):
    """A tree as it is written.

    Attributes:
        arrays: By path, arrays of dtypes that NumPy has itself; those of a `QTensor` at `p` are
            `p/values`, `p/scale` and, if there are, `p/zero_point` and `p/tensor_scale`.
        manifest: What else it takes to read them, as JSON: each `QTensor`'s static facts, and
            the dtypes of arrays that are kept as the bits of another (`bfloat16`, float8).
    """

    arrays: dict[str, np.ndarray]
    manifest: dict[str, Any]


def to_arrays(tree: PyTree) -> Arrays:
    """`tree` as plain arrays and a manifest.

    Invariant: `from_arrays(*to_arrays(tree), like=tree) == tree`, bit for bit.
    """
    arrays: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    for path, leaf in leaves_with_paths(tree):
        array = np.asarray(leaf)
        plain = plain_dtype(array.dtype)
        if plain != array.dtype:
            dtypes[path] = str(array.dtype)
        arrays[path] = array.view(plain)
    return Arrays(arrays, {"version": _VERSION, "quantized": static_facts(tree), "dtypes": dtypes})


def from_arrays(
    arrays: Mapping[str, Any], manifest: Mapping[str, Any], *, like: PyTree = None
) -> Any:
    """What `to_arrays` was given, from what it gave.

    Args:
        arrays: By path.
        manifest: The manifest.
        like: A tree with the same paths, such as that of the floats or of their shapes.

    Returns:
        The leaves in the structure of `like`; without it, a dict of them by path.

    Raises:
        ValueError: Another version, arrays that are missing or left over, shapes or dtypes that
            do not belong together, or paths other than those of `like`.
    """
    if manifest.get("version") != _VERSION:
        raise ValueError(f"a manifest of version {_VERSION} is wanted, got {dict(manifest)}")
    dtypes = manifest["dtypes"]
    left = {
        path: jnp.asarray(np.asarray(x).view(np.dtype(jnp.dtype(dtypes[path]))))
        if path in dtypes
        else jnp.asarray(x)
        for path, x in arrays.items()
    }
    found: dict[str, Any] = {}
    for path, facts in manifest["quantized"].items():
        parts = {name: left.pop(f"{path}/{name}", None) for name in _PARTS}
        found[path] = _qtensor(path, parts, facts)
    found |= left
    if like is None:
        return found
    is_leaf = lambda x: isinstance(x, QTensor)  # noqa: E731
    flat, structure = jax.tree_util.tree_flatten_with_path(like, is_leaf=is_leaf)
    paths = [path_str(path) for path, _ in flat]
    if odd := sorted(found.keys() ^ set(paths)):
        raise ValueError(f"arrays and tree differ at {', '.join(odd[:3])}")
    return jax.tree.unflatten(structure, [found[path] for path in paths])


def _qtensor(path: str, parts: dict[str, Any], facts: Mapping[str, Any]) -> QTensor:
    fmt = parse(facts["format"])
    missing = [name for name in ("values", "scale") if parts[name] is None]
    if missing or not isinstance(fmt, ScaledFormat):
        raise ValueError(f"{path}: {', '.join(missing) or fmt} is missing or unknown")
    packed = facts["packed"]
    q = QTensor(
        **parts,
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
    shape = groups_shape(q)
    if q.scale.shape != shape:
        raise ValueError(f"{path}/scale is {list(q.scale.shape)}, wanted {list(shape)}")


def groups_shape(q: QTensor) -> tuple[int, ...]:
    """The shape of the scales of `q`."""
    shape = list(q.shape)
    for axis in q.axes:
        block = min(q.format.block or shape[axis], max(shape[axis], 1))
        shape[axis] = -(-shape[axis] // block) if q.format.block else 1
    return tuple(shape)
