"""A format's figures, derived from its definition: what a table or a page says about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from precis.formats.float_format import FloatFormat
from precis.formats.parse import Format, parse
from precis.formats.scaled import Rounded, ScaledFormat
from precis.formats.spec import Codebook, Grid, IntFormat

Kind = Literal["float", "integer", "codebook", "scaled"]

# Two formats of one bit layout whose names differ by two letters: each must name the other.
_NOTES = {
    "float8_e4m3": "IEEE-like: the top exponent holds Inf and NaN, so max is 240; OCP's e4m3fn "
    "reaches 448",
    "float8_e4m3fn": "OCP's: no Inf and one NaN of either sign, so max is 448; the IEEE-like "
    "e4m3 ends at 240",
    "float8_e4m3fnuz": "not OCP's e4m3fn, which reaches 448: the bias is one higher, and the code "
    "of -0 is the only NaN",
    "tf32": "a compute format: matrix units read float32 arrays and keep 10 bits of each fraction",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """The figures of a format; of a scaled one, its element's. None where one makes no sense.

    Invariants: of floats and integers, `finite_values + nan_codes + inf_codes` is `2**bits`, less
    one where zero has a sign and so two codes.

    Attributes:
        name: The name that `parse` gives back.
        short_name: The one that `str` gives.
        kind: Float, integer, codebook, or scaled.
        bits: Of one code.
        bits_per_value: With the share of the block's scale; otherwise `bits`.
        exponent_bits: Width of a float's exponent field.
        mantissa_bits: Width of a float's fraction field.
        bias: What is subtracted from the exponent field.
        max: Largest finite value.
        min: Most negative finite value; the smallest of a format without sign.
        smallest_positive: Smallest value above zero, normal or not.
        smallest_normal: Smallest positive value with a full significand.
        smallest_subnormal: Smallest positive value below that; None without a fraction field.
        eps: Distance from 1 to the next larger value of a float.
        finite_values: How many distinct finite values there are; ±0 count as one.
        nan_codes: How many codes are NaN.
        inf_codes: How many codes are infinite.
        decades: `log10(max / smallest_positive)`.
        storage_dtype: Where one value or code is kept.
        carrier: The dtype in which values travel through a program; None but for floats.
        is_native: Whether XLA computes in it; other floats ride on their carrier.
        block: How many values share a scale; None but for blocks.
        scale: What shares a scale of which format, in words; None but for scaled formats.
        note: What is easily mistaken, in words.
    """

    name: str
    short_name: str
    kind: Kind
    bits: int
    bits_per_value: float
    exponent_bits: int | None
    mantissa_bits: int | None
    bias: int | None
    max: float
    min: float
    smallest_positive: float
    smallest_normal: float | None
    smallest_subnormal: float | None
    eps: float | None
    finite_values: int
    nan_codes: int
    inf_codes: int
    decades: float
    storage_dtype: np.dtype
    carrier: np.dtype | None
    is_native: bool
    block: int | None = None
    scale: str | None = None
    note: str | None = None


def facts(fmt: Format | str) -> Facts:
    """The figures of a format.

    >>> f16 = facts("fp16")
    >>> f16.max, f16.smallest_normal == 2**-14, f16.smallest_subnormal == 2**-24
    (65504.0, True, True)
    >>> f16.finite_values, f16.nan_codes, f16.inf_codes
    (63487, 2046, 2)
    >>> facts("mxfp4").bits_per_value, facts("mxfp4").scale
    (4.25, 'blocks of 32 by e8m0')

    Raises:
        ValueError: No format has that name.
    """
    fmt = parse(fmt)
    if isinstance(fmt, ScaledFormat):
        return replace(
            _of_grid(fmt.grid),
            name=str(fmt),
            short_name=str(fmt),
            kind="scaled",
            bits_per_value=fmt.bits_per_value,
            is_native=False,
            block=fmt.block,
            scale=_scale_words(fmt),
        )
    if isinstance(fmt, Rounded):
        return replace(_of_grid(fmt.grid), name=str(fmt), short_name=str(fmt), is_native=False)
    return _of_grid(fmt)


def _of_grid(grid: Grid) -> Facts:
    match grid:
        case FloatFormat():
            return _of_float(grid)
        case IntFormat():
            return _without_fields(grid, "integer", grid.unit, 1 << grid.bits)
        case Codebook():
            smallest = min(value for value in grid.values if value > 0)
            return _without_fields(grid, "codebook", smallest, len(set(grid.values)))


def _of_float(fmt: FloatFormat) -> Facts:
    inf_codes = 2 * int(fmt.has_inf)
    finite_codes = (fmt.max_code + 1) * (2 if fmt.is_signed else 1) - int(fmt.specials == "fnuz")
    return Facts(
        name=fmt.name,
        short_name=str(fmt),
        kind="float",
        bits=fmt.bits,
        bits_per_value=fmt.bits,
        exponent_bits=fmt.exponent_bits,
        mantissa_bits=fmt.mantissa_bits,
        bias=fmt.bias,
        max=fmt.max,
        min=fmt.min,
        smallest_positive=fmt.smallest_subnormal,
        smallest_normal=fmt.smallest_normal,
        smallest_subnormal=fmt.smallest_subnormal if fmt.mantissa_bits else None,
        eps=fmt.eps,
        finite_values=finite_codes - int(fmt.has_negative_zero),
        nan_codes=(1 << fmt.bits) - finite_codes - inf_codes,
        inf_codes=inf_codes,
        decades=math.log10(fmt.max) - math.log10(fmt.smallest_subnormal),
        storage_dtype=fmt.storage_dtype,
        carrier=fmt.carrier,
        is_native=fmt.is_native,
        note=_NOTES.get(fmt.name),
    )


def _without_fields(
    grid: IntFormat | Codebook, kind: Kind, smallest: float, finite_values: int
) -> Facts:
    return Facts(
        name=grid.name,
        short_name=str(grid),
        kind=kind,
        bits=grid.bits,
        bits_per_value=grid.bits,
        exponent_bits=None,
        mantissa_bits=None,
        bias=None,
        max=grid.max,
        min=grid.min,
        smallest_positive=smallest,
        smallest_normal=None,
        smallest_subnormal=None,
        eps=None,
        finite_values=finite_values,
        nan_codes=0,
        inf_codes=0,
        decades=math.log10(grid.max / smallest),
        storage_dtype=grid.storage_dtype,
        carrier=None,
        is_native=False,
    )


def _scale_words(fmt: ScaledFormat) -> str:
    shared = {
        "tensor": "the tensor",
        "channel": "each channel",
        "block": f"blocks of {fmt.block}",
    }[fmt.granularity]
    whole = ", the tensor by f32" if fmt.tensor_scale else ""
    return f"{shared} by {fmt.scale or 'f32'}{whole}"
