"""A checkpoint that orbax wrote as a `Source`: leaf by leaf, each restored as it is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from precis.models.loader.source import EMPTY, MANIFEST, Source
from precis.tree import path_str

_MARK = "_METADATA"
_UNFINISHED = "orbax-checkpoint-tmp"


def read_orbax(where: Path) -> Source:
    """The checkpoint at `where`: a folder of arrays, or one that holds it, newest step first.

    Raises:
        ValueError: More than one could be meant, or a leaf is no array of numbers.
    """
    folder = _folder(where)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = _tree(checkpointer.metadata(folder.absolute()))
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    paths = [path_str(path) for path, _ in flat]
    leaves = {path: _spec(folder, path, leaf) for path, (_, leaf) in zip(paths, flat, strict=True)}
    manifest = _manifest(folder / MANIFEST)
    empty = _empty(manifest)

    last: dict[str, np.ndarray] = {}

    def fill(path: str, out: np.ndarray, axis: int, start: int) -> None:
        if path in empty:
            return
        if path not in last:  # One leaf is kept: the next call is likely to want more of it.
            last.clear()
            last[path] = _restored(folder, structure, paths, path)
        stop = start + out.shape[axis] if out.shape else 1
        out[...] = last[path][_index(leaves[path], axis, start, stop)]

    return Source("orbax", where, leaves | empty, "/", {}, manifest, fill)


def _folder(where: Path) -> Path:
    """The folder that orbax wrote arrays into."""
    if (where / _MARK).is_file():
        return where
    inside = [
        child
        for child in sorted(where.iterdir())
        if child.is_dir()
        and _UNFINISHED not in child.name
        and next(child.rglob(_MARK), None) is not None
    ]
    if (where / "facts").is_dir() and [child.name for child in inside] == ["arrays"]:
        raise ValueError(f"{where} is a step of a sweep's trial: `precis quantize TRIAL` reads it")
    if inside and all(child.name.isdigit() for child in inside):
        return _folder(max(inside, key=lambda child: int(child.name)))
    if len(inside) != 1:
        names = ", ".join(child.name for child in inside)
        raise ValueError(f"{where} holds {len(inside)} checkpoints, {names}: name one of them")
    return _folder(inside[0])


def _tree(metadata: Any) -> Any:
    """Shapes and dtypes as orbax tells them, in the structure that was saved."""
    item = getattr(metadata, "item_metadata", metadata)
    return getattr(item, "tree", item)


def _spec(folder: Path, path: str, leaf: Any) -> jax.ShapeDtypeStruct:
    try:
        return jax.ShapeDtypeStruct(tuple(leaf.shape), np.dtype(leaf.dtype))
    except (AttributeError, TypeError):
        raise ValueError(f"{folder}: {path} is no array of numbers, but {leaf}") from None


def _manifest(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _empty(manifest: Mapping[str, Any] | None) -> dict[str, jax.ShapeDtypeStruct]:
    """Arrays without entries, which orbax cannot save and the manifest tells of."""
    told = (manifest or {}).get(EMPTY, {})
    return {
        path: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for path, (shape, dtype) in told.items()
    }


def _restored(folder: Path, structure: Any, paths: list[str], wanted: str) -> np.ndarray:
    """One leaf, at its stored dtype: without a target's dtype, orbax casts nothing."""
    leaves = [np.zeros(()) if path == wanted else ocp.PLACEHOLDER for path in paths]
    one = ocp.RestoreArgs(restore_type=np.ndarray)
    args = ocp.args.PyTreeRestore(
        item=jax.tree.unflatten(structure, leaves),
        restore_args=jax.tree.unflatten(structure, [one] * len(paths)),
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(folder.absolute(), args=args)
    return np.asarray(jax.tree.leaves(found, is_leaf=lambda x: x is ...)[paths.index(wanted)])


def _index(leaf: jax.ShapeDtypeStruct, axis: int, start: int, stop: int) -> tuple[slice, ...]:
    index = [slice(None)] * len(leaf.shape)
    if index:
        index[axis] = slice(start, stop)
    return tuple(index)
