"""Rules that match nothing: an error, and what they may have meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from precis.policy import PolicyRules
from precis.types import matches, what_there_is
from precis.walk.kinds import Value
from precis.walk.program import Multiply, Program, Scan, Site, bodies


def check_matches(
    policies: PolicyRules, program: Program, arguments: list[Value], avals: list[Any]
) -> None:
    """Nothing, if every rule matches the path of a parameter or of a matrix op.

    Args:
        policies: The rules.
        program: What was planned under them.
        arguments: What is known of the function's array arguments.
        avals: Their shapes.

    Raises:
        ValueError: A rule matches nothing. The message says what there is.
    """
    if not policies.rules:
        return
    shapes = {
        value.paths[0]: tuple(aval.shape)
        for value, aval in zip(arguments, avals, strict=True)
        if value.paths
    }
    paths = [*shapes, *(site.path for site in sites_of(program))]
    for rule in policies.rules:
        if not any(matches(rule.pattern, path) for path in paths):
            scanned = {path: shapes[path] for path in _scanned_paths(program) if path in shapes}
            hint = _scanned(rule.pattern, scanned) or what_there_is(rule.pattern, paths)
            raise ValueError(f"rule {rule.pattern!r} matches nothing: {hint}")


def sites_of(program: Program) -> Iterator[Site]:
    """Every matrix op of a program and of the bodies in it, in order."""
    for step in program.steps:
        if isinstance(step.action, Multiply):
            yield step.action.site
        for body in bodies(step.action):
            yield from sites_of(body)


def _scanned_paths(program: Program) -> Iterator[str]:
    """Parameters of which a loop takes one row after the other."""
    for step in program.steps:
        if isinstance(step.action, Scan):
            for slot in step.inputs[step.action.num_consts + step.action.num_carry :]:
                yield from program.values[slot].paths
        for body in bodies(step.action):
            yield from _scanned_paths(body)


def _scanned(pattern: str, shapes: dict[str, tuple[int, ...]]) -> str:
    """What to say where a layer's number is no part of its path, since a scan runs all of them.

    Args:
        pattern: What matches nothing.
        shapes: Of the parameters that are scanned, by path.
    """
    numbered = re.fullmatch(r"(.+?)/(?:\d+|\*)((?:/.*)?)", pattern)
    if numbered is None:
        return ""
    module, rest = numbered.groups()
    whole = module + (rest or "/**")
    found = next((path for path in shapes if matches(whole, path)), None)
    if found is None:
        return ""
    shape = shapes[found]
    more = "…" if len(shape) > 1 else ""
    return f"{module} are scanned ({found} [{shape[0]}, {more}]); nearest: {whole!r}"
