"""Codes side by side: narrow codes stored without the bits that they do not have."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats.codes import code_dtype
from precis.formats.parse import Format, parse_grid
from precis.formats.spec import Grid


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["data"], meta_fields=["format", "length"]
)
@dataclass(frozen=True, slots=True)
class Packed:
    """Bit codes packed along the last axis; a pytree node.

    The first code takes the lowest bits of the first byte, and so on; a row is filled up to
    whole bytes.

    Attributes:
        data: [..., ceil(length * bits / 8)] uint8.
        format: What the codes are codes of.
        length: Codes in a row.
    """

    data: Array
    format: Grid
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the codes."""
        return (*self.data.shape[:-1], self.length)

    @property
    def nbytes(self) -> int:
        """Bytes that the packed codes take."""
        return self.data.size


def pack(codes: Array, fmt: Format | str) -> Packed:
    """`codes` packed along the last axis.

    Invariant: `unpack(pack(codes, fmt)) == codes`.

    >>> packed = pack(jnp.uint8([[1, 2, 3]]), "e2m1")
    >>> packed.data, packed.nbytes
    (Array([[33,  3]], dtype=uint8), 2)

    Args:
        codes: [..., n] unsigned integers, as `encode` gives them: bits above the format's width
            must be zero.
        fmt: The format that they are codes of, or its name.

    Raises:
        TypeError: `codes` are not unsigned integers.
        ValueError: They are a scalar, which has no axis to pack along, or `fmt` is scaled.
    """
    grid = parse_grid(fmt)
    codes = jnp.asarray(codes)
    if not jnp.issubdtype(codes.dtype, jnp.unsignedinteger):
        raise TypeError(f"codes are unsigned integers, got {codes.dtype}")
    if codes.ndim == 0:
        raise ValueError("pack wants codes with an axis to pack along, got a scalar")
    return Packed(_pack(codes, grid.bits), grid, codes.shape[-1])


@jax.jit
def unpack(packed: Packed) -> Array:
    """The codes of `packed`: [..., n] of the narrowest unsigned dtype."""
    bits, dtype = packed.format.bits, code_dtype(packed.format)
    codes, size = _group(bits)
    rows = packed.data.shape[:-1]
    filled = _filled(packed.data, size)
    data = filled.reshape(*rows, filled.shape[-1] // size, size)
    found = []
    for code in range(codes):
        value = jnp.zeros(data.shape[:-1], dtype)
        for byte, shift in _parts(code, bits):
            part = data[..., byte].astype(dtype)
            value = value | (_shifted(part, -shift) & np.asarray((1 << bits) - 1, dtype))
        found.append(value)
    whole = jnp.stack(found, axis=-1)
    return whole.reshape(*rows, whole.shape[-2] * codes)[..., : packed.length]


@functools.partial(jax.jit, static_argnums=1)
def _pack(codes: Array, bits: int) -> Array:
    count, size = _group(bits)
    rows, length = codes.shape[:-1], codes.shape[-1]
    filled = _filled(codes, count)
    groups = filled.reshape(*rows, filled.shape[-1] // count, count)
    data = [jnp.zeros(groups.shape[:-1], np.uint8)] * size
    for code in range(count):
        for byte, shift in _parts(code, bits):
            data[byte] = data[byte] | _shifted(groups[..., code], shift).astype(np.uint8)
    whole = jnp.stack(data, axis=-1).reshape(*rows, groups.shape[-2] * size)
    return whole[..., : math.ceil(length * bits / 8)]


def _group(bits: int) -> tuple[int, int]:
    """The fewest codes that fill whole bytes, and how many bytes they fill."""
    whole = math.lcm(bits, 8)
    return whole // bits, whole // 8


def _parts(code: int, bits: int) -> list[tuple[int, int]]:
    """The bytes of a group that hold a piece of `code`, and how far left it stands in each."""
    start = code * bits
    return [(byte, start - 8 * byte) for byte in range(start // 8, -(-(start + bits) // 8))]


def _shifted(x: Array, places: int) -> Array:
    amount = np.asarray(abs(places), x.dtype)
    return x << amount if places >= 0 else x >> amount


def _filled(x: Array, multiple: int) -> Array:
    """`x` with zeros behind its last axis, up to a multiple of so many."""
    missing = -x.shape[-1] % multiple
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
