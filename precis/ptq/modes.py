"""What a layer can run as after training, by name, and rules that give paths a mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from precis.formats import ScaledFormat, parse
from precis.quant import quantized_format
from precis.types import matches, nearest, pattern_pairs

_KEEP = ("f32", "float32", "none")


class Mode(NamedTuple):
    """How a weight is stored, and what its inputs are multiplied in.

    Attributes:
        name: What it is called.
        weight: What the weight is stored in; None leaves it as it is.
        inputs: What inputs are brought to, a format's name; `float` is 16 bits, those of the
            weight's own dtype if it has 16.
        is_static: Whether the scale of the inputs is known beforehand, from calibration.
        has_outliers: Whether columns of large inputs are multiplied in float.
    """

    name: str
    weight: ScaledFormat | None
    inputs: str = "float"
    is_static: bool = False
    has_outliers: bool = False


_INT8 = quantized_format("int8")
MODES = {
    mode.name: mode
    for mode in (
        Mode("f32", None),
        Mode("w8", _INT8),
        Mode("w4", quantized_format("int4")),
        Mode("nf4", quantized_format("nf4")),
        Mode("w8a8", _INT8, "int8"),
        Mode("w8a8_static", _INT8, "int8", is_static=True),
        Mode("w8a8_outliers", _INT8, "int8", has_outliers=True),
        Mode("w8a8_fp8", quantized_format("e4m3fn"), "e4m3fn@channel"),
    )
}
"""Modes by name. The name of any other format that arrays are kept in is one for weights alone."""


class ModeRule(NamedTuple):
    """A mode for the paths that a pattern matches.

    Attributes:
        pattern: `head/**`; `*` stops at `/`, `**` does not.
        mode: What they run as.
        axis: Axes along which weights share a scale; None for what is usual for their shape.
    """

    pattern: str
    mode: Mode
    axis: tuple[int, ...] | None = None


Modes: TypeAlias = str | Mode | Iterable[ModeRule | tuple[Any, ...]]


def mode_rules(given: Modes) -> tuple[ModeRule, ...]:
    """`given` as rules: one mode for all paths, or pairs of a pattern and a mode.

    >>> [(rule.pattern, rule.mode.name) for rule in mode_rules("w8a8; head/**: f32")]
    [('**', 'w8a8'), ('head/**', 'f32')]

    Args:
        given: A mode or its name; text such as `w8a8; head/**: f32`; or rules, each as a `ModeRule`
            or as (pattern, mode) or (pattern, mode, axis). Of two that match, the later one wins.

    Raises:
        ValueError: No rules, an empty pattern or an unknown mode.
        TypeError: A rule is neither.
    """
    if isinstance(given, str):
        base, pairs = pattern_pairs(given)
        return (ModeRule("**", _mode(base)), *map(_rule, pairs))
    if isinstance(given, Mode):
        return (ModeRule("**", given),)
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        raise TypeError(
            "a mode such as 'w8a8' or rules such as [('**', 'w8a8'), ('head/**', 'f32')] are "
            f"wanted, got {given!r}"
        )
    rules = tuple(_rule(rule) for rule in given)
    if not rules:
        raise ValueError("rules are wanted, such as [('**', 'w8a8')], got none")
    return rules


def mode_text(text: str) -> str:
    """The canonical text of modes by path: `mode_rules` reads the same from both.

    >>> mode_text("w8a8 ;head/**:f32")
    'w8a8; head/**: f32'

    Raises:
        ValueError: As `mode_rules`, or if there is nothing that it would quantize.
    """
    base, *rules = found = mode_rules(text)
    if all(rule.mode.weight is None for rule in found):
        raise ValueError(f"{text!r} quantizes nothing: a mode is wanted, such as 'w8a8'")
    return "; ".join([base.mode.name, *(f"{rule.pattern}: {rule.mode.name}" for rule in rules)])


def mode_at(rules: Sequence[ModeRule], path: str) -> ModeRule | None:
    """The last rule that matches a path."""
    return next((rule for rule in reversed(rules) if matches(rule.pattern, path)), None)


def _rule(given: Any) -> ModeRule:
    if isinstance(given, ModeRule):
        return given
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) not in (2, 3):
        raise TypeError(f"a rule is (pattern, mode) or (pattern, mode, axis), got {given!r}")
    pattern, mode, *rest = given
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"rule {given!r} has no pattern: ('**', 'w8a8') for example")
    axis = rest[0] if rest else None
    return ModeRule(pattern, _mode(mode), (axis,) if isinstance(axis, int) else axis)


def _mode(given: Any) -> Mode:
    if isinstance(given, Mode):
        return given
    name = "f32" if given is None else str(given).strip()
    if name.lower() in _KEEP:
        return MODES["f32"]
    if name.lower() in MODES:
        return MODES[name.lower()]
    try:
        return Mode(name, quantized_format(name))
    except ValueError as error:
        near = nearest(name.lower(), MODES)
        hint = f"; did you mean {near!r}?" if near else f"; nor is it a format: {error}"
        hint = f": {error}" if _is_format(name) else hint
        raise ValueError(
            f"{name!r} is no mode, which are {', '.join(MODES)} and the formats that weights are "
            f"kept in{hint}"
        ) from None


def _is_format(name: str) -> bool:
    try:
        parse(name)
    except ValueError:
        return False
    return True
