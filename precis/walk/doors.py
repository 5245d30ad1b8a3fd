"""What becomes of a value that crosses into a body or out of it."""

from __future__ import annotations

from typing import Any

from precis.formats import FLOAT32, FloatFormat, wide_dtype
from precis.policy import Policy
from precis.walk.islands import Rules
from precis.walk.kinds import Kind, Value, carried, format_of, join


def enter(policy: Policy, value: Value) -> Value:
    """Rule 5: an island ends at the door, but for accumulators and running statistics."""
    if value.kind is Kind.ISLAND and not value.absorbs and not value.stored:
        return Value(Kind.POLICY, policy.activation, paths=value.paths, data=value.data)
    return value._replace(fresh=False)


def leave(policy: Policy, value: Value, aval: Any) -> Value:
    """Likewise on the way out, where a number of rank 0 stays as it was computed."""
    if value.kind is Kind.ISLAND and aval.ndim:
        return enter(policy, value)
    return value._replace(fresh=False, sources=frozenset())


def carry(policy: Policy, before: Value, after: Value, *, is_linear: bool) -> Value:
    """Rule 7: what a loop hands on that starts as `before` and is updated to `after`."""
    value = carried(before, after)
    if value.kind is Kind.POLICY and is_linear:
        value = value._replace(kind=Kind.ISLAND, absorbs=True)
    match value.kind:
        case Kind.POLICY:
            return value._replace(format=policy.activation)
        case Kind.ISLAND:
            return value._replace(format=policy.sensitive)
        case _:
            # Stored in few bits and updated: as wide as the update is, or it would be lost.
            return value._replace(format=after.format or before.format)


def chosen(rules: Rules, values: list[Value], aval: Any, *, by_data: bool) -> Value:
    """One of `values`, as a cond hands it over: each branch brings its own to this format.

    Free and policy give policy, free and island an island, island and policy policy. A result
    is a statistic still if every branch gives one.

    Args:
        rules: The formats.
        values: What each branch gives.
        aval: The result's shape and dtype.
        by_data: Whether data chooses the branch. A parameter that it chooses stays a parameter.
    """
    both, declared = join(values), format_of(aval.dtype)
    if values[0].stored_as is not None and len({value.stored_as for value in values}) == 1:
        return values[0]._replace(data=both.data or by_data, paths=both.paths)
    data = both.data or (by_data and both.kind is not Kind.WEIGHT)
    both = both._replace(data=data, paths=both.paths if both.is_neutral else both.paths[:1])
    if declared is None:
        return both._replace(kind=Kind.DISCRETE)
    fmt = _common(values)
    if not both.is_neutral:
        is_pinned = rules.pins == "respect" and declared.bits < FLOAT32.bits
        is_island = both.kind is Kind.ISLAND
        governed = rules.policy.sensitive if is_island else rules.policy.activation
        fmt = declared if is_pinned else governed
        stored = both.stored if is_island and all(v.stored for v in values) else None
        both = both._replace(stored=stored, absorbs=both.absorbs and is_island)
    return both._replace(format=fmt)


def _common(values: list[Value]) -> FloatFormat | None:
    """The format of all values, or the wide one that holds each."""
    formats = {value.format for value in values}
    if len(formats) == 1:
        return formats.pop()
    return format_of(wide_dtype(*(fmt.carrier for fmt in formats if fmt)))
