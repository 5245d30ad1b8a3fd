"""A checkpoint in few bits on disk, in either format, array by array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from precis.models.loader.draft import appearing
from precis.models.loader.safetensors_write import stored_dtype, write_safetensors
from precis.models.loader.source import MODEL, Kind, Take
from precis.tree import leaves_with_paths, plain_dtype


def node_parts(path: str, node: Any) -> dict[str, Any]:
    """The arrays of a quantized node, or shapes of them, by their own paths."""
    return {f"{path}/{name}": leaf for name, leaf in leaves_with_paths(node)}


def write_checkpoint(
    dst: Path,
    kind: Kind,
    leaves: Mapping[str, Any],
    take: Take,
    *,
    manifest: Mapping[str, Any],
    separator: str,
    metadata: Mapping[str, str],
    overwrite: bool,
) -> None:
    """Writes arrays, one at a time, to `dst`, which appears when it is complete.

    Args:
        dst: The file or folder.
        kind: Its format.
        leaves: Shapes and dtypes of all arrays, by path.
        take: Gives the array of a path; asked once for each, of those of a node one after the
            other.
        manifest: As `manifest_of`; dtypes of arrays that are kept as their bits are added.
        separator: What parts of a path are joined by on disk.
        metadata: Text that safetensors keeps beside it.
        overwrite: Whether what is at `dst` may be replaced.

    Raises:
        FileExistsError: There is something at `dst`, and `overwrite` is not said.
    """
    to_stored = stored_dtype if kind == "safetensors" else plain_dtype
    dtypes = {path: np.dtype(leaf.dtype) for path, leaf in leaves.items()}
    stored = {
        path: jax.ShapeDtypeStruct(leaf.shape, to_stored(dtypes[path]))
        for path, leaf in leaves.items()
    }
    bits = {path: dtype.name for path, dtype in dtypes.items() if stored[path].dtype != dtype}
    full = {**manifest, "dtypes": bits, "separator": separator}

    def stored_bits(path: str) -> Iterable[np.ndarray]:
        return (piece.view(stored[path].dtype) for piece in take(path))

    with appearing(dst, overwrite=overwrite) as draft:
        if kind == "orbax":
            from precis.models.loader.orbax_write import write_orbax

            write_orbax(draft, stored, stored_bits, manifest=full)
            return
        file = draft
        if dst.suffix != ".safetensors":
            draft.mkdir()
            file = draft / MODEL
        write_safetensors(
            file, stored, stored_bits, manifest=full, separator=separator, metadata=metadata
        )
