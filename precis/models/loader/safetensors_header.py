"""The header of a safetensors file: eight bytes of length, JSON, then all arrays in a row.

A file is not to be trusted: every number in its header is checked before it is used.
Source: https://huggingface.co/docs/safetensors (format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_METADATA = "__metadata__"
# As the reference implementation has it: no header that was meant is larger.
_LARGEST = 100_000_000
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_NAMES = {name: own for own, name in _DTYPES.items()}


class Entry(NamedTuple):
    """An array in a file.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        start: The file's byte at which it begins.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int


class Header(NamedTuple):
    """What a file holds.

    Attributes:
        entries: Arrays by name, in the order of their bytes.
        metadata: Text by name.
    """

    entries: dict[str, Entry]
    metadata: dict[str, str]


def has_name(dtype: np.dtype) -> bool:
    """Whether the format has a name for `dtype`."""
    return dtype.name in _NAMES


def read_header(path: Path) -> Header:
    """The header of the file at `path`.

    Raises:
        ValueError: It is no such file, it is cut off, or its header contradicts itself or it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > min(size - 8, _LARGEST):
            raise ValueError(
                f"{path} is no safetensors file, or cut off: it has {size} bytes, and its header "
                f"would have {length}"
            )
        text = file.read(length)
    try:
        found = json.loads(text.decode(), object_pairs_hook=_unique)
        metadata = found.pop(_METADATA, None) or {}
        entries = {name: _entry(name, facts, 8 + length) for name, facts in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} has no header of safetensors: {error}") from None
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, nbytes(item[1]))))
    end = 8 + length
    for name, entry in ordered.items():
        if entry.start != end:
            raise ValueError(f"{path}: {name} begins at byte {entry.start}, expected {end}")
        end += nbytes(entry)
    if end != size:
        raise ValueError(
            f"{path} has {size} bytes, and {end} by its header: "
            f"{'it is cut off' if size < end else 'what follows is unknown'}"
        )
    return Header(ordered, metadata)


def make_header(
    leaves: Mapping[str, jax.ShapeDtypeStruct], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, Entry]]:
    """A header with its length in front, and where in the file each array belongs.

    Arrays of wider entries come first and the header is padded, so that each is aligned.
    """
    order = sorted(leaves, key=lambda name: (-np.dtype(leaves[name].dtype).itemsize, name))
    head: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    entries, end = dict[str, Entry](), 0
    for name in order:
        shape, dtype = tuple(leaves[name].shape), np.dtype(leaves[name].dtype)
        entries[name] = Entry(shape, dtype, end)
        begin, end = end, end + nbytes(entries[name])
        head[name] = {"dtype": _NAMES[dtype.name], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    moved = {name: entry._replace(start=first + entry.start) for name, entry in entries.items()}
    return struct.pack("<Q", len(text)) + text, moved


def nbytes(entry: Entry) -> int:
    """Bytes of an array."""
    return math.prod(entry.shape) * entry.dtype.itemsize


def _entry(name: str, facts: Mapping[str, Any], first: int) -> Entry:
    kind, shape, (start, stop) = facts["dtype"], facts["shape"], facts["data_offsets"]
    if kind not in _DTYPES:
        raise ValueError(f"{name} is {kind}, which is not one of {', '.join(_DTYPES)}")
    numbers = [*shape, start, stop]
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
        raise ValueError(f"{name} has shape {shape} and bytes {start} to {stop}")
    entry = Entry(tuple(shape), np.dtype(jnp.dtype(_DTYPES[kind])), first + start)
    if stop - start != nbytes(entry):
        raise ValueError(
            f"{name} is {kind}{shape}, {nbytes(entry)} bytes, and is given {stop - start}"
        )
    return entry


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice")
    return found
