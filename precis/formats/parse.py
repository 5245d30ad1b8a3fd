"""From text to a format, and a clear word where there is none.

format  = scaled | grid options
scaled  = grid options "@" shared [ ":" float ] [ "@tensor" ] options | block-name options
shared  = "tensor" | "channel" | "block" count
grid    = name | "eXmY" [ "fn" | "fnuz" ] | [ "u" ] "int" bits [ "q" fraction-bits ]
options = [ "(" option { "," option } ")" ]
option  = rounding | "overflow=" … | "subnormals=" … | "scale=" …
"""

from __future__ import annotations

import re
from typing import Any

from precis.formats.catalogue import ALIASES, CATALOGUE, FLOAT32
from precis.formats.float_format import FloatFormat, Specials
from precis.formats.options import split_options, with_rounding
from precis.formats.scaled import BLOCK_FORMATS, Granularity, Rounded, ScaledFormat
from precis.formats.spec import Codebook, Grid, IntFormat, held_by
from precis.types import did_you_mean

Format = FloatFormat | IntFormat | Codebook | Rounded | ScaledFormat

_EXMY = re.compile(r"e(\d+)m(\d+)(fnuz|fn)?")
_INT = re.compile(r"(u?)int(\d+)(?:q(\d+))?")
_SHARED = re.compile(r"(tensor|channel|block(-?\w*))(?::([^@]*))?(@tensor)?")


def parse(text: Format | str) -> Format:
    """The format that `text` names; a format is returned as it is.

    Names are ml_dtypes' (`bfloat16`, `float8_e4m3fn`), short ones (`bf16`, `e4m3fn`), `eXmY` for
    any IEEE-like float with 2 ≤ X ≤ 8 and Y ≤ 23 (`eXmYfn`, `eXmYfnuz` for the other kinds),
    `int8`, `uint4` and so on, and the codebooks `nf4`, `dynamic8`, `udynamic8`. `e2m1`, `e2m3`
    and `e3m2` are OCP's finite formats. Behind `@` stands what shares a scale: `int8@tensor`,
    `int8@channel`, `nf4@block64`, `e2m1@block16:e4m3fn`; `mxfp8_e4m3` and `nvfp4` are names for
    such. Options stand in parentheses: `e5m2(stochastic)`, `mxfp4(scale=rceil)`.
    `parse(str(fmt)) == fmt`.

    >>> parse("bf16").max_exponent
    127
    >>> parse("e5m3").max
    61440.0
    >>> str(parse("float4_e2m1fn@block32:float8_e8m0fnu"))
    'mxfp4'

    Raises:
        ValueError: The name or an option is unknown, ambiguous (`half`) or degenerate (`e0m0`).
        TypeError: `text` is neither text nor a format.
    """
    if isinstance(text, Format):
        return text
    if not isinstance(text, str):
        raise TypeError(f"a format or its name is wanted, got {text!r}")
    name, options = split_options(re.sub(r"\s", "", text.lower()))
    name = BLOCK_FORMATS.get(name, name)
    if "@" in name:
        return _scaled(name, options)
    if "scale" in options:
        raise ValueError(f"{text!r}: only a scaled format (with '@') has a rule for its scale")
    return with_rounding(_grid(name), options)


def parse_float(text: Format | str) -> FloatFormat:
    """Like `parse`, for places where only a plain floating-point format makes sense.

    Raises:
        ValueError: Also if the name is an integer's, a codebook's, a scaled one's, or has options.
    """
    fmt = parse(text)
    if not isinstance(fmt, FloatFormat):
        why = (
            "an integer needs a scale" if isinstance(fmt, IntFormat) else "without scale or options"
        )
        raise ValueError(f"a floating-point format is wanted here, got {fmt}: {why}")
    return fmt


def parse_grid(text: Format | str) -> Grid:
    """Like `parse`, for places where only codes of a fixed width make sense.

    Raises:
        ValueError: Also if the name is a scaled format's or has options.
    """
    fmt = parse(text)
    if isinstance(fmt, Rounded | ScaledFormat):
        raise ValueError(f"a format without scale or options is wanted here, got {fmt}")
    return fmt


def _grid(text: str) -> Grid:
    name = ALIASES.get(text, text)
    if name in CATALOGUE:
        return CATALOGUE[name]
    if match := _EXMY.fullmatch(name):
        kind: Any = match[3] or "ieee"
        return _exmy(name, int(match[1]), int(match[2]), kind)
    if match := _INT.fullmatch(name):
        return _integer(name, int(match[2]), int(match[3] or 0), signed=not match[1])
    if name == "half":
        raise ValueError(
            "'half' means float16 on some devices and bfloat16 on others: write 'f16' or 'bf16'"
        )
    choices = [*CATALOGUE, *ALIASES, *BLOCK_FORMATS, "e5m3", "int8@channel", "uint8"]
    raise ValueError(f"no number format is called {text!r}{did_you_mean(name, choices)}")


def _exmy(name: str, exponent_bits: int, mantissa_bits: int, specials: Specials) -> FloatFormat:
    if not (2 <= exponent_bits <= 8 and mantissa_bits <= 23):
        raise ValueError(
            f"eXmY wants 2 to 8 exponent bits and 0 to 23 mantissa bits, got {name!r}: fewer "
            "leave no room for special codes, more do not fit in float32"
        )
    if specials == "ieee" and mantissa_bits == 0:
        raise ValueError(
            f"{name!r} has no code for NaN: without a fraction the all-ones exponent is Inf "
            f"alone; write '{name}fn' or '{name}fnuz'"
        )
    bias = 2 ** (exponent_bits - 1) - int(specials != "fnuz")
    fmt = FloatFormat(name, exponent_bits, mantissa_bits, bias, specials)
    if not fmt.fits_in(FLOAT32):
        raise ValueError(
            f"{name!r} has values that float32 lacks (from {fmt.smallest_subnormal:.3g} to "
            f"{fmt.max:.3g}): it would have nothing to travel in; take fewer exponent bits"
        )
    return fmt


def _integer(name: str, bits: int, fraction_bits: int, *, signed: bool) -> IntFormat:
    if not 2 <= bits <= 32:
        raise ValueError(f"an integer format has 2 to 32 bits, got {name!r}")
    if fraction_bits >= bits:
        raise ValueError(f"{name!r} has more bits behind the point than bits")
    return IntFormat(bits, signed, fraction_bits)


def _scaled(text: str, outer: dict[str, str]) -> ScaledFormat:
    element, _, shared = text.partition("@")
    match = _SHARED.fullmatch(shared)
    if match is None:
        raise ValueError(
            f"{text!r}: what shares a scale is 'tensor', 'channel' or 'block32', with the scale's "
            f"format behind ':' (block32:e8m0), got {shared!r}"
        )
    name, inner = split_options(element)
    if both := inner.keys() & outer.keys():
        raise ValueError(f"{text!r}: {both.pop()!r} is said twice")
    if "scale" in inner:
        raise ValueError(f"{text!r}: the rule for the scale stands at the end")
    rule: Any = outer.pop("scale", "floor")
    granularity: Granularity = "block" if match[1].startswith("block") else match[1]  # type: ignore
    scale = parse_float(match[3]) if match[3] is not None else None
    fmt = ScaledFormat(
        element=with_rounding(_grid(name), inner | outer),
        granularity=granularity,
        block=_block(text, match[2]) if granularity == "block" else None,
        scale=None if scale == FLOAT32 else scale,
        rule=rule,
        tensor_scale=match[4] is not None,
    )
    _check_scales(fmt)
    return fmt


def _block(text: str, count: str) -> int:
    if not count.isdecimal() or int(count) == 0:
        raise ValueError(f"{text!r}: a block has a positive number of values, got {count!r}")
    return int(count)


def _check_scales(fmt: ScaledFormat) -> None:
    if isinstance(fmt.grid, FloatFormat) and not (fmt.grid.has_zero and fmt.grid.fits_in(FLOAT32)):
        raise ValueError(f"{fmt}: {fmt.grid} cannot be scaled: it has no zero, or not in float32")
    if isinstance(fmt.grid, IntFormat) and not held_by(fmt.grid, FLOAT32):
        raise ValueError(f"{fmt}: scaled values are float32, which lacks values of {fmt.grid}")
    if fmt.tensor_scale and fmt.scale is not None and fmt.scale.max * fmt.grid.max > 2.0**96:
        raise ValueError(
            f"{fmt}: elements times scales reach {fmt.scale.max * fmt.grid.max:.3g}, which leaves "
            "the tensor's scale no room in float32; take a narrower scale such as e4m3fn"
        )
    if fmt.rule != "floor" and not fmt.has_power_of_two_scales:
        raise ValueError(f"{fmt}: a rule for the scale goes with e8m0 scales, as in block32:e8m0")
    if fmt.has_power_of_two_scales and isinstance(fmt.grid, Codebook):
        raise ValueError(f"{fmt}: a codebook wants float scales, as in {fmt.grid}@block64")
    if fmt.scale is not None and not fmt.scale.fits_in(FLOAT32):
        raise ValueError(f"{fmt}: a scale is float32 or narrower, got {fmt.scale}")
    if fmt.tensor_scale and (fmt.scale is None or fmt.has_power_of_two_scales):
        raise ValueError(
            f"{fmt}: a second scale, of the tensor, goes with narrow float scales such as e4m3fn"
        )
