"""Which formats arrays are kept in; known without jax, so that rules can be read."""

from __future__ import annotations

from precis.formats import (
    Codebook,
    FloatFormat,
    Format,
    Rounded,
    ScaledFormat,
    is_stochastic,
    parse,
)

# Below 5 bits, one scale for a whole column loses too much; QLoRA's blocks have 64 values.
_FEW_BITS, _BLOCK = 4, 64


def quantized_format(fmt: Format | str) -> ScaledFormat:
    """`fmt` as arrays are kept in it; a bare one gets the granularity that is usual for it.

    Codebooks and formats of at most 4 bits have blocks of 64, others a scale for each channel.

    >>> [str(quantized_format(name)) for name in ("int8", "nf4", "int4", "e4m3fn", "mxfp4")]
    ['int8@channel', 'nf4@block64', 'int4@block64', 'e4m3fn@channel', 'mxfp4']

    Raises:
        ValueError: A float of more than 8 bits without a scale, which is a cast; options of
            rounding; a scale that has no NaN to mark a group with; more than 16 bits.
    """
    fmt = parse(fmt)
    if isinstance(fmt, Rounded):
        raise ValueError(f"{fmt}: what is kept is rounded to the nearest; write {fmt.grid}")
    if isinstance(fmt, FloatFormat) and fmt.bits > 8:
        raise ValueError(
            f"{fmt} has no scale: precis.cast_to_param casts a tree, {fmt}@channel would scale it"
        )
    if not isinstance(fmt, ScaledFormat):
        is_small = isinstance(fmt, Codebook) or fmt.bits <= _FEW_BITS
        fmt = ScaledFormat(fmt, "block", _BLOCK) if is_small else ScaledFormat(fmt, "channel")
    if isinstance(fmt.element, Rounded) and not is_stochastic(fmt):
        raise ValueError(f"{fmt}: what is kept is rounded to the nearest or stochastically")
    if fmt.bits > 16:
        raise ValueError(f"{fmt}: more than 16 bits are kept as they are")
    if fmt.scale is not None and (not fmt.scale.has_nan or fmt.scale.bits > 16):
        raise ValueError(
            f"{fmt}: a kept scale has at most 16 bits and a NaN, which marks a group that held "
            f"one; {fmt.scale} has not"
        )
    return fmt
