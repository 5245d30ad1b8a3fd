"""A safetensors checkpoint as a `Source`: one file, or shards with an index."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from precis.models.loader.names import separator_of
from precis.models.loader.safetensors_header import Entry, Header, read_header
from precis.models.loader.source import INDEX, MANIFEST, MODEL, Source


def read_safetensors(where: Path) -> Source:
    """The checkpoint at `where`, a file or a folder.

    Raises:
        ValueError: A header or the index is wrong, or they do not agree.
    """
    headers = dict(_headers(where))
    entries: dict[str, tuple[Path, Entry]] = {}
    metadata: dict[str, str] = {}
    for file, header in headers.items():
        if twice := entries.keys() & header.entries.keys():
            raise ValueError(f"{min(twice)} is in {file.name} and in another shard")
        entries |= {name: (file, entry) for name, entry in header.entries.items()}
        metadata |= header.metadata
    manifest = _manifest(where, metadata)
    # What was written here says it; of names without any `/` it could not be told.
    said = manifest.get("separator") if manifest else None
    separator = said if said in (".", "/") else separator_of(entries)
    by_path = {name.replace(separator, "/"): found for name, found in entries.items()}

    def fill(path: str, out: np.ndarray, axis: int, start: int) -> None:
        file, entry = by_path[path]
        _fill(file, entry, out, axis=axis, start=start)

    return Source(
        kind="safetensors",
        where=where,
        leaves={
            path: jax.ShapeDtypeStruct(entry.shape, entry.dtype)
            for path, (_, entry) in by_path.items()
        },
        separator=separator,
        metadata={name: text for name, text in metadata.items() if name != MANIFEST},
        manifest=manifest,
        fill=fill,
    )


def _headers(where: Path) -> Iterator[tuple[Path, Header]]:
    if where.is_file():
        yield where, read_header(where)
    elif not (where / INDEX).is_file():
        yield where / MODEL, read_header(where / MODEL)
    else:
        yield from _shards(where)


def _shards(folder: Path) -> Iterator[tuple[Path, Header]]:
    """Each shard that the index names, which has to hold what the index says, and no more."""
    try:
        wanted = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(wanted.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / INDEX} is no index of shards: {error!r}") from None
    for name in files:
        # A name with a folder in it could be any file of this machine.
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{folder / INDEX}: a file beside it is wanted, got {name!r}")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / INDEX} names {name}, which is not there")
        header = read_header(folder / name)
        own = {key for key, file in wanted.items() if file == name}
        if odd := sorted(own ^ header.entries.keys()):
            raise ValueError(f"{folder / INDEX} and {name} differ at {', '.join(odd[:3])}")
        yield folder / name, header


def _manifest(where: Path, metadata: dict[str, str]) -> dict[str, Any] | None:
    if MANIFEST not in metadata:
        return None
    try:
        found = json.loads(metadata[MANIFEST])
    except ValueError as error:
        raise ValueError(f"the manifest of {where} is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _fill(file: Path, entry: Entry, out: np.ndarray, *, axis: int, start: int) -> None:
    """Reads entries along an axis; they are not mapped, so that no page of the file stays."""
    if not out.size:
        return
    inner = math.prod(entry.shape[axis + 1 :]) * entry.dtype.itemsize
    step = inner * (entry.shape[axis] if entry.shape else 1)
    rows = out.reshape(-1).view(np.uint8).reshape(math.prod(entry.shape[:axis]), -1)
    with file.open("rb") as opened:
        for number, row in enumerate(rows):
            _read(opened.fileno(), row, entry.start + number * step + start * inner, file)


def _read(descriptor: int, row: np.ndarray, offset: int, file: Path) -> None:
    view = row.data
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise ValueError(f"{file} ended at byte {offset}: it was changed while it was read")
        view, offset = view[count:], offset + count
