"""A checkpoint that orbax reads, written array by array."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from precis.models.loader.names import nested
from precis.models.loader.source import EMPTY, MANIFEST, Take


@dataclass(frozen=True, eq=False)
class _Awaited:
    """A leaf of the tree that orbax is given, whose array is taken when it is its turn."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    take: Take

    @property
    def nbytes(self) -> int:
        """Bytes of the array, by which orbax counts what it writes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self) -> np.ndarray:
        """The array, in one piece."""
        out, at = np.empty(self.shape, self.dtype), 0
        flat = out.reshape(-1)
        for piece in self.take(self.path):
            if piece.shape == self.shape:
                return piece
            flat[at : at + piece.size] = piece.reshape(-1)
            at += piece.size
        assert at == flat.size, self.path
        return out


class _OneByOne:
    """Orbax' handler of NumPy's arrays, given one at a time; see its `TypeHandler`."""

    def __init__(self) -> None:
        self._arrays = _handler()

    def typestr(self) -> str:
        """As what a leaf is recorded, and restored by any reader."""
        return self._arrays.typestr()

    async def metadata(self, infos: Sequence[Any]) -> Sequence[Any]:
        """As of arrays."""
        return await self._arrays.metadata(infos)

    async def deserialize(self, infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        """As of arrays."""
        return await self._arrays.deserialize(infos, args)

    async def serialize(
        self, values: Sequence[_Awaited], infos: Sequence[Any], args: Any = None
    ) -> Sequence[Any]:
        """Takes and writes each array before the next one is taken."""
        args = args or [ocp.SaveArgs()] * len(values)
        for value, info, arg in zip(values, infos, args, strict=True):
            for written in await self._arrays.serialize([value.array()], [info], [arg]):
                written.result()
        return []

    def memory_size(self, values: Sequence[_Awaited]) -> Sequence[tuple[int, int]]:
        """Bytes that are written and read."""
        return [(value.nbytes, value.nbytes) for value in values]

    def finalize(self, directory: Any) -> None:
        """Nothing is left to do."""


def _handler() -> Any:
    """Orbax' own; each array is written before the next is made, so none need be copied."""
    try:
        return ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    except TypeError:  # of orbax 0.11, which always copies
        return ocp.type_handlers.NumpyHandler()


def write_orbax(
    folder: Path,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    take: Take,
    *,
    manifest: Mapping[str, Any],
) -> None:
    """Writes a folder that orbax restores as dicts in dicts, with the manifest in it.

    Args:
        folder: Where to; it is made.
        leaves: Shapes and dtypes of all arrays, by path.
        take: Gives the array of a path, whole or in pieces that follow each other; once for each.
        manifest: What else it takes to read them; arrays without entries are added, which orbax
            cannot save.
    """
    full = {path: leaf for path, leaf in leaves.items() if math.prod(leaf.shape)}
    tree = nested(
        {
            path: _Awaited(path, tuple(leaf.shape), np.dtype(leaf.dtype), take)
            for path, leaf in full.items()
        }
    )
    one_by_one: Any = _OneByOne()
    handlers = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler()), (_Awaited, one_by_one)
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=handlers)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))
    empty = {
        path: [list(leaf.shape), np.dtype(leaf.dtype).name]
        for path, leaf in leaves.items()
        if path not in full
    }
    (folder / MANIFEST).write_text(json.dumps({**manifest, EMPTY: empty}, indent=1) + "\n")
