"""`Source`: a checkpoint whose leaves are known before any is read, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import jax
import numpy as np

from precis.types import did_you_mean

Kind: TypeAlias = Literal["safetensors", "orbax"]
"""The formats that checkpoints are read from and written to."""

Take: TypeAlias = Callable[[str], Iterable[np.ndarray]]
"""Gives the array of a path, whole or in pieces that follow each other; once for each path."""

INDEX = "model.safetensors.index.json"
MODEL = "model.safetensors"
MANIFEST = "precis.json"
EMPTY = "empty"


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk.

    Attributes:
        kind: Its format.
        where: The file or folder.
        leaves: Shapes and dtypes as they are stored, by path.
        separator: What parts of a path are joined by on disk.
        metadata: What else a safetensors header says, as text.
        manifest: What `quantize_checkpoint` wrote beside the arrays; None if it did not write it.
        fill: `fill(path, out, axis, start)`: reads into `out`, of its dtype, what a leaf has along
            an axis from `start` on, in as many entries as `out` has there.
    """

    kind: Kind
    where: Path
    leaves: Mapping[str, jax.ShapeDtypeStruct]
    separator: str
    metadata: Mapping[str, str]
    manifest: Mapping[str, Any] | None
    fill: Callable[[str, np.ndarray, int, int], None]

    def whole(self, path: str) -> np.ndarray:
        """The leaf at `path`."""
        out = np.empty(self.leaves[path].shape, self.leaves[path].dtype)
        self.fill(path, out, 0, 0)
        return out


def open_source(where: str | Path) -> Source:
    """The checkpoint at `where`; its headers are read and checked, its arrays are not.

    Args:
        where: A `.safetensors` file; a folder with `model.safetensors` or with shards and
            `model.safetensors.index.json`; or a folder that orbax wrote, or one of its steps.

    Raises:
        ValueError: It is none of these, or what it says of itself cannot be.
        FileNotFoundError: There is nothing.
    """
    path = Path(where)
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("[!.]*")])
        raise FileNotFoundError(f"no checkpoint at {path}{near}")
    if path.is_file() or any((path / name).is_file() for name in (INDEX, MODEL)):
        from precis.models.loader.safetensors_read import read_safetensors

        return read_safetensors(path)
    if next(path.rglob("_METADATA"), None) is not None:
        from precis.models.loader.orbax_read import read_orbax

        return read_orbax(path)
    there = ", ".join(sorted(p.name for p in path.iterdir())[:6])
    raise ValueError(
        f"{path} is no checkpoint: a .safetensors file is wanted, a folder with {MODEL} or "
        f"{INDEX}, or one that orbax wrote; it holds {there or 'nothing'}"
    )


def kind_for(dst: Path, given: Kind | None, usual: Kind) -> Kind:
    """The format to write at `dst`: the one given, that of the suffix, or the usual one.

    Raises:
        ValueError: An unknown format, or one that is not that of the suffix.
    """
    by_suffix: Kind | None = "safetensors" if dst.suffix == ".safetensors" else None
    if given is not None and given not in get_args(Kind):
        raise ValueError(f"{given!r} is no format of checkpoints; choose from {get_args(Kind)}")
    if by_suffix is not None and given == "orbax":
        raise ValueError(f"{dst} is a file of safetensors; orbax writes a folder")
    return given or by_suffix or usual
