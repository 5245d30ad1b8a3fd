"""A safetensors file written array by array: its header first, for shapes are known before."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from precis.models.loader.safetensors_header import has_name, make_header, nbytes
from precis.models.loader.source import MANIFEST, Take
from precis.tree import plain_dtype


def stored_dtype(dtype: np.dtype) -> np.dtype:
    """What an array of `dtype` is stored as: itself if the format has it, else its bits."""
    return dtype if has_name(dtype) else plain_dtype(dtype)


def write_safetensors(
    file: Path,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    take: Take,
    *,
    manifest: Mapping[str, Any],
    separator: str,
    metadata: Mapping[str, str],
) -> None:
    """Writes a file.

    Args:
        file: Where to.
        leaves: Shapes and dtypes of all arrays, by path.
        take: Gives the array of a path; asked once for each, in the order of paths.
        manifest: What else it takes to read them.
        separator: What parts of a path are joined by.
        metadata: Text to keep beside it.
    """
    text = {**metadata, MANIFEST: json.dumps(manifest, separators=(",", ":"))}
    named = {path: path.replace("/", separator) for path in leaves}
    header, entries = make_header({named[path]: leaf for path, leaf in leaves.items()}, text)
    with file.open("wb") as opened:
        _put(opened.fileno(), np.frombuffer(header, np.uint8), 0)
        for path in sorted(leaves):
            entry = entries[named[path]]
            at, end = entry.start, entry.start + nbytes(entry)
            for piece in take(path):
                # An array that is no row of bytes is copied.
                flat = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
                assert piece.dtype == entry.dtype, path
                assert at + flat.size <= end, path
                _put(opened.fileno(), flat, at)
                at += flat.size
            assert at == end, path


def _put(descriptor: int, flat: np.ndarray, offset: int) -> None:
    view = flat.data
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
