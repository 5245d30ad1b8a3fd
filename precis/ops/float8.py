"""Products of 8-bit floats as CUDA has them: which operands take part, and in what.

Values of e4m3fn and e5m2 travel as bfloat16, which holds them all. In a program for CUDA they
become float8 right before their dot. That is exact, NaN and Inf included, so every backend
multiplies the same numbers, and a product of two of them is exact in float32.

One operand must be e4m3fn: cuBLASLt has no e5m2 × e5m2, which stays bfloat16. On GPUs before Ada,
and for shapes that cuBLASLt has not, XLA widens a float8 dot to float16, which is exact as well.
Convolutions stay bfloat16: cuDNN has not all of them in float8.

Dots ask for the precision HIGHEST. At DEFAULT, XLA asks cuBLASLt for fast accumulation, which
keeps about 14 bits of a sum on Hopper, or takes a Triton kernel, which always sums so; at HIGHEST,
for cuBLASLt's other way, which promotes partial sums to float32. The preset `ANY_F8_ANY_F8_F32`
means the same, but CPUs and GPUs before Ada refuse it.

Source: XLA's gemm_rewriter.cc, cuda_blas_lt.cc and the Triton emitter; openxla/xla pull requests
6599 (fast accumulation by precision) and 16072 (what is widened); DeepSeek-V3, arXiv:2412.19437,
section 3.3.2 (14 bits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jax import Array

from precis.formats import E4M3FN, E5M2, FloatFormat, Format, Rounded, ScaledFormat
from precis.ops.operand import as_operand

FLOAT8 = (E4M3FN.storage_dtype, E5M2.storage_dtype)
"""The dtypes of 8 bits that CUDA multiplies."""


class Float8(NamedTuple):
    """The float8 of each operand of a product."""

    lhs: np.dtype
    rhs: np.dtype


Multiply: TypeAlias = Callable[[Array, Array], Array]


def float8_of(fmt: Format) -> np.dtype | None:
    """The float8 that has every value of an operand in `fmt`, or of its codes; None without one.

    >>> from precis.formats import parse
    >>> [str(float8_of(parse(name))) for name in ("e4m3fn@tensor", "e5m2", "e2m1", "e4m3", "nvfp4")]
    ['float8_e4m3fn', 'float8_e5m2', 'float8_e4m3fn', 'None', 'None']
    """
    match as_operand(fmt):
        case ScaledFormat(granularity="block"):
            return None
        case (
            (FloatFormat() as grid)
            | Rounded(grid=FloatFormat() as grid)
            | ScaledFormat(scale=None, grid=FloatFormat() as grid)
        ):
            known = next((known for known in (E4M3FN, E5M2) if _has_all(known, grid)), None)
            return None if known is None else known.storage_dtype
        case _:
            return None


def float8_product(lhs: Format | None, rhs: Format | None) -> Float8 | None:
    """What CUDA multiplies operands in these formats in, if that is float8.

    Args:
        lhs: A format; None if that is not known.
        rhs: Likewise.
    """
    left, right = (None if fmt is None else float8_of(fmt) for fmt in (lhs, rhs))
    if left is None or right is None or left == right == E5M2.storage_dtype:
        return None
    return Float8(left, right)


def in_float8(multiply: Multiply, dtypes: Float8) -> Multiply:
    """`multiply` of bfloat16 that lies on the grids of `dtypes`, as a product in these.

    Its derivative is that of `multiply`: a tangent is on no grid, and would be rounded in float8,
    or become NaN.
    """

    @jax.custom_jvp
    def narrowed(lhs: Array, rhs: Array) -> Array:
        return multiply(lhs.astype(dtypes.lhs), rhs.astype(dtypes.rhs))

    @narrowed.defjvp
    def tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        (lhs, rhs), (left, right) = primals, tangents
        return narrowed(lhs, rhs), multiply(left, rhs) + multiply(lhs, right)

    return narrowed


def _has_all(known: FloatFormat, grid: FloatFormat) -> bool:
    # Both have a NaN, which stays NaN on the carrier even of a format that has none.
    return grid.fits_in(known) and (known.has_inf or not grid.has_inf)
