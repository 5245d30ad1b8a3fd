"""Rules by path: which parameters are quantized, and to what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from precis.formats import Format, ScaledFormat
from precis.quant.formats import quantized_format
from precis.types import matches, pattern_pairs, what_there_is

KEPT = (
    "**/bias",
    "**/scale",
    "**/mean",
    "**/var",
    "**/embedding",
    "**/*norm*/**",
    "**/*Norm*/**",
)
"""What stays in float unless a rule names it: norms, biases, running statistics, embeddings."""

KEPT_BY_RULE = "the rules say so"
"""Why a parameter stays in float: no rule is for it, or one that says so."""

KEPT_BY_DEFAULT = "norms, biases and embeddings are kept"
"""Why a parameter stays in float: a rule is for it, does not name it, and `KEPT` matches."""

_KEEP = ("none", "f32", "float32")
# What `quantize_model` stores weights in; its modes say more than that.
_MODES = {
    "w8": "int8",
    "w4": "int4",
    "w8a8": "int8",
    "w8a8_static": "int8",
    "w8a8_outliers": "int8",
    "w8a8_fp8": "e4m3fn",
}


@dataclass(frozen=True, slots=True)
class QuantRule:
    """A format for the paths that a pattern matches.

    Attributes:
        pattern: `head/**`; `*` stops at `/`, `**` does not.
        format: What to quantize to; None leaves the parameter as it is.
        axis: What groups run along; None is what is usual for the parameter's shape.
    """

    pattern: str
    format: ScaledFormat | None
    axis: tuple[int, ...] | None = None

    def names(self, path: str) -> bool:
        """Whether it matches `path` and spells out the last part of it."""
        return matches(self.pattern, path) and "*" not in self.pattern.rpartition("/")[2]


Rules: TypeAlias = Format | str | Iterable[QuantRule | tuple[Any, ...]]


def quant_rules(rules: Rules) -> tuple[QuantRule, ...]:
    """`rules` as a tuple: one format for all paths, or pairs of a pattern and a format.

    >>> [str(rule.format) for rule in quant_rules([("**", "int8"), ("head/**", "f32")])]
    ['int8@channel', 'None']
    >>> quant_rules("nf4; head/**: int8")[1].pattern
    'head/**'

    Args:
        rules: A format or its name; text such as `int8; head/**: f32`; or rules, each as a
            `QuantRule` or as (pattern, format) or (pattern, format, axis). None and `f32` leave
            a parameter as it is. Of two rules that match a path, the later one wins.

    Raises:
        ValueError: No rules, an empty pattern, or a format that arrays are not kept in.
        TypeError: A rule is neither.
    """
    if isinstance(rules, str) and ";" in rules:
        base, pairs = pattern_pairs(rules)
        return quant_rules([("**", base), *pairs])
    if isinstance(rules, str | Format):
        return (QuantRule("**", _format(rules)),)
    found = tuple(_rule(rule) for rule in rules)
    if not found:
        raise ValueError("rules are wanted, such as [('**', 'int8')], got none")
    return found


def _rule(given: QuantRule | tuple[Any, ...]) -> QuantRule:
    if isinstance(given, QuantRule):
        return given
    if not isinstance(given, Sequence) or len(given) not in (2, 3):
        raise TypeError(f"a rule is (pattern, format) or (pattern, format, axis), got {given!r}")
    pattern, fmt, *rest = given
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"rule {given!r} has no pattern: ('**', 'int8') for example")
    axis = rest[0] if rest else None
    axes = axis if axis is None else tuple(axis) if isinstance(axis, Sequence) else (axis,)
    is_kept = fmt is None or (isinstance(fmt, str) and fmt.strip().lower() in _KEEP)
    try:
        return QuantRule(pattern, None if is_kept else _format(fmt), axes)
    except ValueError as error:
        raise ValueError(f"rule {pattern!r}: {error}") from None


def _format(given: Format | str) -> ScaledFormat:
    name = str(given).strip().lower()
    if weights := _MODES.get(name):
        raise ValueError(
            f"{given!r} is a mode, which also says what inputs are multiplied in: "
            f"precis.quantize_model takes it; for its weights alone, the format is {weights!r}"
        )
    return quantized_format(given)


def rule_for(
    rules: Sequence[QuantRule], path: str, ndim: int, keep: Sequence[str]
) -> QuantRule | None:
    """The rule by which a parameter is quantized; None if it stays as it is.

    The last rule that matches decides. Scalars, vectors and what `keep` matches stay as they are,
    unless that rule names them.
    """
    matching = [rule for rule in rules if matches(rule.pattern, path)]
    if not matching or matching[-1].format is None:
        return None
    return matching[-1] if _may_quantize(matching[-1], path, ndim, keep) else None


def _may_quantize(rule: QuantRule, path: str, ndim: int, keep: Sequence[str]) -> bool:
    is_kept = ndim < 2 or any(matches(pattern, path) for pattern in keep)
    return rule.names(path) or not is_kept


def check_rules(
    rules: Sequence[QuantRule],
    ndims: dict[str, int],
    keep: Sequence[str],
    *,
    is_quantized: bool,
    stored: Sequence[str] = (),
) -> None:
    """Checks that each rule matches some parameter, and that some parameter is quantized.

    Args:
        rules: The rules.
        ndims: How many axes each parameter has, by path.
        keep: Patterns of what stays in float.
        is_quantized: Whether something is quantized, or was already.
        stored: Paths of what was quantized already.

    Raises:
        ValueError: It is not so. The message says what there is.
    """
    for rule in rules:
        if any(matches(rule.pattern, path) for path in stored):
            continue
        found = {path: ndim for path, ndim in ndims.items() if matches(rule.pattern, path)}
        if not found:
            there = what_there_is(rule.pattern, [*ndims, *stored])
            raise ValueError(f"rule {rule.pattern!r} matches nothing: {there}")
        may = [_may_quantize(rule, path, ndim, keep) for path, ndim in found.items()]
        if rule.format is not None and not any(may):
            raise ValueError(
                f"rule {rule.pattern!r} matches only what stays in float, norms, biases, "
                f"embeddings and vectors: {what_there_is(rule.pattern, found)}; a rule that "
                "spells out the last part of a path quantizes it"
            )
    if not is_quantized:
        raise ValueError(
            f"nothing is quantized: by the last rule that matches it, all stays in float; "
            f"{what_there_is('**', ndims)}"
        )
