"""Formats that say more than which numbers there are: how to round, and what to scale by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from precis.formats.float_format import FloatFormat
from precis.formats.spec import Grid

Rounding = Literal["nearest_even", "nearest_away", "toward_zero", "up", "down", "stochastic"]
Overflow = Literal["ieee", "saturate", "inf", "nan"]
Subnormals = Literal["keep", "flush"]
Granularity = Literal["tensor", "channel", "block"]
ScaleRule = Literal["floor", "ceil", "even", "rceil"]


# OCP Microscaling Formats specification 1.0, table 1: blocks of 32 that share a power of two.
# NVFP4 (NVIDIA, arXiv:2509.25149): blocks of 16, whose scales a scale of the tensor brings into
# the range of e4m3fn.
BLOCK_FORMATS = {
    "mxfp8_e4m3": "e4m3fn@block32:e8m0",
    "mxfp8_e5m2": "e5m2@block32:e8m0",
    "mxfp6_e2m3": "e2m3@block32:e8m0",
    "mxfp6_e3m2": "e3m2@block32:e8m0",
    "mxfp4": "e2m1@block32:e8m0",
    "mxint8": "int8q6@block32:e8m0",
    "nvfp4": "e2m1@block16:e4m3fn@tensor",
}
_NAMES = {text: name for name, text in BLOCK_FORMATS.items()}


@dataclass(frozen=True, slots=True)
class Rounded:
    """A grid together with the way in which values come onto it: `e5m2(stochastic)`.

    Attributes:
        grid: Which numbers exist.
        rounding: See `round_to`.
        overflow: See `round_to`; None is the default of the grid.
        subnormals: See `round_to`.
    """

    grid: Grid
    rounding: Rounding = "nearest_even"
    overflow: Overflow | None = None
    subnormals: Subnormals = "keep"

    def __str__(self) -> str:
        options = [
            *([self.rounding] if self.rounding != "nearest_even" else []),
            *([f"overflow={self.overflow}"] if self.overflow else []),
            *([f"subnormals={self.subnormals}"] if self.subnormals != "keep" else []),
        ]
        return _with_options(str(self.grid), options)

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return self.grid.bits


@dataclass(frozen=True, slots=True)
class ScaledFormat:
    """A grid that a tensor is brought onto by scales: `int8@channel`, `e2m1@block32:e8m0`.

    Attributes:
        element: The grid of the scaled values, saturating.
        granularity: What shares a scale: everything (`tensor`), all along the axes that a
            matrix op sums over (`channel`), or so many neighbors along them (`block`).
        block: How many neighbors; None without blocks.
        scale: Format of the scales; None is float32. A bare exponent (`e8m0`) makes every
            scale a power of two.
        rule: Which power of two (`scale_exponents`); without meaning for other scales.
        tensor_scale: Whether a float32 of the whole tensor scales the scales.
    """

    element: Grid | Rounded
    granularity: Granularity
    block: int | None = None
    scale: FloatFormat | None = None
    rule: ScaleRule = "floor"
    tensor_scale: bool = False

    def __str__(self) -> str:
        shared = f"block{self.block}" if self.block else self.granularity
        scale = f":{self.scale}" if self.scale else ""
        whole = "@tensor" if self.tensor_scale else ""
        rule = [f"scale={self.rule}"] if self.rule != "floor" else []
        text = f"{self.element}@{shared}{scale}{whole}"
        return _with_options(_NAMES.get(text, text), rule)

    @property
    def grid(self) -> Grid:
        """Which numbers the elements are."""
        return self.element.grid if isinstance(self.element, Rounded) else self.element

    @property
    def rounding(self) -> Rounded:
        """How elements come onto their grid; they saturate unless told otherwise."""
        rounded = self.element if isinstance(self.element, Rounded) else Rounded(self.element)
        return replace(rounded, overflow=rounded.overflow or "saturate")

    @property
    def has_power_of_two_scales(self) -> bool:
        """Whether a scale is a bare exponent."""
        return self.scale is not None and self.scale.specials == "fnu"

    @property
    def bits(self) -> int:
        """Bits of one element, without its share of the scale."""
        return self.grid.bits

    @property
    def bits_per_value(self) -> float:
        """Bits of one element with its share of the block's scale (a channel's is not counted)."""
        scale_bits = 32 if self.scale is None else self.scale.bits
        return self.bits + (scale_bits / self.block if self.block else 0.0)


def is_stochastic(fmt: Grid | Rounded | ScaledFormat) -> bool:
    """Whether values come onto `fmt` by chance, which takes a random key.

    >>> from precis.formats import parse
    >>> [is_stochastic(parse(name)) for name in ("int8", "int8(stochastic)@channel")]
    [False, True]
    """
    how = fmt.element if isinstance(fmt, ScaledFormat) else fmt
    return isinstance(how, Rounded) and how.rounding == "stochastic"


def _with_options(text: str, options: list[str]) -> str:
    return f"{text}({','.join(options)})" if options else text
