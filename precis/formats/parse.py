"""From text to a format, and a clear word where there is none."""

from __future__ import annotations

import re

from precis.formats.catalogue import ALIASES, CATALOGUE
from precis.formats.spec import FloatFormat, IntFormat
from precis.types import did_you_mean

Format = FloatFormat | IntFormat

_EXMY = re.compile(r"e(\d+)m(\d+)")
_INT = re.compile(r"(u?)int(\d+)")


def parse(text: Format | str) -> Format:
    """The format that `text` names; a format is returned as it is.

    Names are ml_dtypes' (`bfloat16`), short ones (`bf16`), `eXmY` for any IEEE-like float with
    2 ≤ X ≤ 8 and 1 ≤ Y ≤ 23, and `int8`, `uint4` and so on. `parse(str(fmt)) == fmt`.

    >>> parse("bf16")
    FloatFormat(name='bfloat16', exponent_bits=8, mantissa_bits=7, bias=127)
    >>> parse("e5m3").max
    61440.0

    Raises:
        ValueError: The name is unknown, ambiguous (`half`) or degenerate (`e0m0`).
        TypeError: `text` is neither text nor a format.
    """
    if isinstance(text, FloatFormat | IntFormat):
        return text
    if not isinstance(text, str):
        raise TypeError(f"a format or its name is wanted, got {text!r}")
    name = text.strip().lower()
    name = ALIASES.get(name, name)
    if name in CATALOGUE:
        return CATALOGUE[name]
    if match := _EXMY.fullmatch(name):
        return _exmy(name, int(match[1]), int(match[2]))
    if match := _INT.fullmatch(name):
        return _integer(name, int(match[2]), signed=not match[1])
    if name == "half":
        raise ValueError(
            "'half' means float16 on some devices and bfloat16 on others: write 'f16' or 'bf16'"
        )
    choices = [*CATALOGUE, *ALIASES, "e5m3", "int8", "uint8"]
    raise ValueError(f"no number format is called {text!r}{did_you_mean(name, choices)}")


def parse_float(text: Format | str) -> FloatFormat:
    """Like `parse`, for places where only a floating-point format makes sense.

    Raises:
        ValueError: Also if the name is an integer format's.
    """
    fmt = parse(text)
    if isinstance(fmt, IntFormat):
        raise ValueError(
            f"a floating-point format is wanted here, got {fmt}: an integer needs a scale"
        )
    return fmt


def _exmy(name: str, exponent_bits: int, mantissa_bits: int) -> FloatFormat:
    if not (2 <= exponent_bits <= 8 and 1 <= mantissa_bits <= 23):
        raise ValueError(
            f"eXmY wants 2 to 8 exponent bits and 1 to 23 mantissa bits, got {name!r}: fewer "
            "leave no room for Inf and NaN codes, more do not fit in float32"
        )
    return FloatFormat(name, exponent_bits, mantissa_bits, 2 ** (exponent_bits - 1) - 1)


def _integer(name: str, bits: int, *, signed: bool) -> IntFormat:
    if not 2 <= bits <= 32:
        raise ValueError(f"an integer format has 2 to 32 bits, got {name!r}")
    return IntFormat(bits, signed)
