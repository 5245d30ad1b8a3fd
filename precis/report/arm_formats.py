"""Which of an arm's formats can be a cause: one that is narrow in range, one of few bits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from precis.formats import FloatFormat, parse_float
from precis.report.grain import grains
from precis.report.records import Trial, resolved
from precis.report.rows import Row
from precis.report.words import one_part

# IEEE's half precision and every format of as few exponent bits reach from about 1e-8 to 1e5, so
# gradients fall out at the low end and sums at the high one unless the loss is scaled.
_NARROW_EXPONENT = 5
# Below bfloat16's seven bits, rounding alone is a cause; from there up it is only mentioned if
# nothing else explains the gap.
_FEW_MANTISSA_BITS = 6
# Roles of what matrix ops see; and all in which a narrow range can be a cause, the likeliest first.
_SEEN = ("c", "k", "x", "g", "gx", "gw")
_ORDER = ("c", "x", "g", "gx", "gw", "k", "p", "a", "o", "w")


def float_formats(trials: Iterable[Trial], roles: Collection[str]) -> dict[str, FloatFormat]:
    """The float formats that an arm's policy has for `roles`, by key; not scaled or integer ones.

    A rule's key has its pattern before it.
    """
    found = {}
    for role in resolved(trials):
        if _letters(role.key) not in roles:
            continue
        try:
            found[role.key] = parse_float(role.format)
        except ValueError:
            continue
    return found


def narrow_format(
    trials: Iterable[Trial], roles: Sequence[str] = _ORDER
) -> tuple[str, FloatFormat] | None:
    """The first of an arm's formats for `roles` whose range is half precision's or less.

    Args:
        trials: The arm's.
        roles: The likeliest cause first.
    """
    found = float_formats(trials, roles)
    keys = sorted(found, key=lambda key: roles.index(_letters(key)))
    narrow = (key for key in keys if found[key].exponent_bits <= _NARROW_EXPONENT)
    return next(((key, found[key]) for key in narrow), None)


def few_bits(row: Row, base: Row, *, explained: bool) -> str:
    """The coarsest of the formats that matrix ops see, where it is coarser than the baseline's.

    Args:
        row: Of the arm.
        base: The baseline's.
        explained: Whether something else is a cause, beside which a fine format is none.
    """
    own, plain = grains(row.trials), grains(base.trials)
    # A role that the baseline does not name follows g there.
    theirs_of = {key: plain.get(_letters(key), plain.get("g")) for key in own}
    seen = [key for key in own if _letters(key) in _SEEN and theirs_of[key] is not None]
    if not seen:
        return ""
    # Of equals the first: c, which the others follow.
    seen.sort(key=lambda k: (" " in k, _SEEN.index(_letters(k))))
    key = max(seen, key=lambda k: own[k].error)
    grain, theirs = own[key], theirs_of[key]
    if theirs is None or grain.error <= theirs.error:
        return ""
    if explained and grain.error < 2.0**-_FEW_MANTISSA_BITS / 2:
        return ""
    return (
        f"`{key}={grain.format}` {grain.has}: each value it rounds is off by up to "
        f"{one_part(grain.error)}{grain.of} (`{theirs.format}`: {one_part(theirs.error)})."
    )


def _letters(key: str) -> str:
    """The role's letters, of a rule's key as well.

    >>> _letters("head/**: gx")
    'gx'
    """
    return key.rpartition(" ")[2]
