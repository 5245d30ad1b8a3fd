"""A tree with quantized nodes as plain arrays and a manifest, which any file format can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from precis.quant.kernel import is_stored
from precis.quant.parts import node_of, part_names
from precis.tree import leaves_with_paths, path_str, plain_dtype, static_facts
from precis.types import PyTree

_VERSION = 1


class Arrays(NamedTuple):
    """A tree as it is written.

    Attributes:
        arrays: By path, arrays of dtypes that NumPy has itself; those of a `QTensor` at `p` are
            `p/values`, `p/scale` and, if there are, `p/zero_point` and `p/tensor_scale`; those of
            a `Kernel` `p/weight/values` and so on, `p/input_amax` and `p/smoothing`.
        manifest: What else it takes to read them, as JSON: static facts of each `QTensor` and
            `Kernel`, and the dtypes of arrays that are kept as the bits of another (`bfloat16`,
            float8).
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
    return Arrays(arrays, manifest_of(static_facts(tree), dtypes))


def manifest_of(facts: Mapping[str, Any], dtypes: Mapping[str, str]) -> dict[str, Any]:
    """A manifest, as JSON.

    Args:
        facts: Static facts of quantized nodes, by path.
        dtypes: Of arrays that are kept as the bits of another dtype, by path.
    """
    return {"version": _VERSION, "quantized": dict(facts), "dtypes": dict(dtypes)}


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
            do not belong together, or paths or shapes other than those of `like`.
    """
    dtypes = manifest.get("dtypes", {})
    opened = {path: on_device(np.asarray(x), dtypes.get(path)) for path, x in arrays.items()}
    found = nodes_of(opened, manifest)
    return found if like is None else in_structure(found, like)


def nodes_of(arrays: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """By path, quantized nodes put together from their arrays, and all other arrays.

    Args:
        arrays: By path, each in its own dtype. Shapes in their place make nodes of shapes, so
            that a checkpoint is known to be whole before any of it is read.
        manifest: The manifest.

    Raises:
        ValueError: As `from_arrays`.
    """
    version = manifest.get("version")
    if version != _VERSION:
        raise ValueError(f"a manifest of version {_VERSION} is wanted, got version {version}")
    left, found = dict(arrays), dict[str, Any]()
    for path, facts in manifest["quantized"].items():
        names = [name for name in part_names(facts) if f"{path}/{name}" in left]
        found[path] = node_of(path, {name: left.pop(f"{path}/{name}") for name in names}, facts)
    if odd := [path for path in left if any(path.startswith(f"{node}/") for node in found)]:
        raise ValueError(f"{odd[0]} is no part of what is quantized there")
    return found | left


def in_structure(found: Mapping[str, Any], like: PyTree) -> PyTree:
    """Leaves and quantized nodes by path, in the structure of `like`.

    Raises:
        ValueError: Paths or shapes other than those of `like`.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(like, is_leaf=is_stored)
    wanted = {path_str(path): leaf for path, leaf in flat}
    if odd := sorted(found.keys() ^ wanted.keys()):
        more = ", ".join(f"{path} ({'saved' if path in found else 'wanted'})" for path in odd[:3])
        raise ValueError(f"arrays and tree differ at {more}")
    for path, leaf in wanted.items():
        shape = getattr(leaf, "shape", None)
        if shape is not None and tuple(shape) != tuple(found[path].shape):
            raise ValueError(f"{path} is {list(found[path].shape)}, wanted {list(shape)}")
    return jax.tree.unflatten(structure, [found[path] for path in wanted])


def on_device(x: np.ndarray, dtype: str | None = None) -> Any:
    """`x` as an array of jax, or of NumPy where jax would narrow it to 32 bits.

    Args:
        x: An array as it is on disk.
        dtype: The dtype whose bits it holds, if that is another.
    """
    own = x if dtype is None else x.view(np.dtype(jnp.dtype(dtype)))
    return own if jax.dtypes.canonicalize_dtype(own.dtype) != own.dtype else jnp.asarray(own)
