"""Formats of what is only kept or sent: an optimizer's moments, and gradients on the wire."""

from __future__ import annotations

from precis.formats import FloatFormat, Format, ScaledFormat, compact_format, parse


def kept_format(role: str, fmt: Format | str) -> FloatFormat | ScaledFormat:
    """`fmt` as the format of role `m`, `v` or `r`.

    It is a dtype (`f32`, `bf16`, `f16`), or blocks of at most 8 bits with float32 scales
    (`int8@block256`).

    Raises:
        ValueError: Another format, or one without negative values where there are some.
    """
    fmt = parse(fmt)
    how = "sent" if role == "r" else "stored"
    if isinstance(fmt, FloatFormat):
        if not fmt.is_native:
            raise ValueError(
                f"{role}={fmt}: {role} is {how} as it is, so its format must be a dtype or have "
                f"blocks; choose f32, bf16, f16, or {fmt}@block256 if it has at most 8 bits"
            )
        return fmt
    if not isinstance(fmt, ScaledFormat):
        raise ValueError(f"{role}={fmt}: {how} in few bits, it wants blocks, as in {fmt}@block256")
    try:
        blocks = compact_format(fmt)
    except ValueError as error:
        raise ValueError(f"{role}={fmt}: {error}") from None
    if role != "v" and fmt.grid.min >= 0:
        raise ValueError(
            f"{role}={fmt}: {fmt.grid} has no negative values, and would make them zero"
        )
    return blocks
