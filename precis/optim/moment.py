"""A moment in storage: one leaf of an optimizer's state as a flat array, or as codes and scales."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats import (
    FLOAT32,
    Compact,
    FloatFormat,
    ScaledFormat,
    cast_to,
    compact_zeros,
    compress,
    decompress,
    parse_float,
)
from precis.optim.words import Words


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scales"],
    meta_fields=["format", "shape"],
)
@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of one parameter, flattened, in blocks; a pytree node.

    Attributes:
        codes: [blocks, format.block] uint8, see `precis.formats.Compact`; what the last block has
            beyond the parameter's end is 0.
        scales: [blocks] float32.
        format: The scaled format.
        shape: The parameter's.
    """

    codes: Array
    scales: Array
    format: ScaledFormat
    shape: tuple[int, ...]

    @property
    def static_facts(self) -> dict[str, Any]:
        """Its format and shape, without which a checkpoint's codes mean nothing."""
        return {"format": str(self.format), "shape": list(self.shape)}

    @property
    def values(self) -> Array:
        """[...] float32: what the codes stand for, in the parameter's shape."""
        size = math.prod(self.shape)
        flat = decompress(Compact(self.codes, self.scales), self.format).reshape(-1)
        return flat[:size].reshape(self.shape)


def blank(shape: tuple[int, ...], fmt: FloatFormat | ScaledFormat) -> Moment | Array:
    """A moment of zeros: a flat array in the format's dtype, or a `Moment`.

    Args:
        shape: The parameter's.
        fmt: A float format with a dtype, or one that `compact_format` allows.
    """
    size = math.prod(shape)
    if isinstance(fmt, FloatFormat):
        return jnp.zeros(size, fmt.carrier)
    return Moment(*compact_zeros(-(-size // (fmt.block or 1)), fmt), fmt, shape)


def width_of(moment: Moment | Array) -> int:
    """How many entries share a scale."""
    return (moment.format.block or 1) if isinstance(moment, Moment) else 1


def read(moment: Moment | Words, start: int | Array, size: int, width: int) -> Array:
    """[⌈size / width⌉, width] float32: entries from `start` on, a multiple of the block."""
    if isinstance(moment, Words):
        return moment.rows(start, size, width).astype(np.float32)
    block = width_of(moment)
    there, rows = -(-size // block), -(-size // width) * width // block
    codes, scales = (
        lax.dynamic_slice_in_dim(x, start // block, there) for x in (moment.codes, moment.scales)
    )
    values = decompress(Compact(codes, scales), moment.format)
    return jnp.pad(values, ((0, rows - there), (0, 0))).reshape(-1, width)


def encoded(
    moment: Moment | Words, size: int, values: Array, *, is_second: bool
) -> Compact | Array:
    """`values`, shaped as `read` gives them, as `moment` stores `size` of its entries.

    Where it `is_second`, nothing positive becomes 0.
    """
    if isinstance(moment, Words):
        fmt = parse_float(str(moment.dtype))
        return narrowed(values.reshape(-1)[:size], fmt, is_second=is_second)
    block = width_of(moment)
    rows = -(-size // block)
    values = values.reshape(-1, block)[:rows]
    new = compress(values, moment.format)
    if is_second:
        zero = compact_zeros(1, moment.format).codes
        new = new._replace(codes=_above_zero(values, new.codes, zero, zero + 1))
    return new


def write(moment: Moment | Words, start: int | Array, new: Compact | Array) -> Moment | Words:
    """`moment` with `new`, as `encoded` gives it, from entry `start` on.

    In place, where the compiler sees that nobody needs the old ones.
    """
    if isinstance(moment, Words):
        assert not isinstance(new, Compact)
        return moment.put(new, start)
    codes, scales = (
        lax.dynamic_update_slice_in_dim(old, part, start // width_of(moment), 0)
        for old, part in zip((moment.codes, moment.scales), new, strict=True)
    )
    return dataclasses.replace(moment, codes=codes, scales=scales)


def narrowed(x: Array, fmt: FloatFormat, *, is_second: bool) -> Array:
    """A moment in the dtype of `fmt`; a second one that is positive stays so in float16, too."""
    new = cast_to(x, fmt)
    if not is_second or fmt.min_exponent <= FLOAT32.min_exponent:
        return new
    smallest = np.asarray(fmt.smallest_subnormal, new.dtype)
    return _above_zero(x, new, np.zeros_like(smallest), smallest)


def _above_zero(values: Array, stored: Array, zero: Any, smallest: Any) -> Array:
    """`stored` with the smallest positive number where a positive value became 0.

    An entry with v = 0 whose gradient is small or 0 in the next step moves by m / eps.

    Source: Li et al., Memory Efficient Optimizers with 4-bit States, arXiv:2309.01507, on zero
    points of second moments.
    """
    return jnp.where((values > 0) & (stored == zero), smallest, stored)
