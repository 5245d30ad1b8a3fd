"""`--set KEY=VALUE`: a dotted key into a sweep file's tables, and a TOML value."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from precis.types import did_you_mean


def override(tables: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy of `tables` with each `KEY=VALUE` of `settings` put in, in order.

    In a list of tables (`task`, `arm`) the next part of the key is an entry's name or label, or
    `*` for all of them. A value that is no TOML is taken as text.

    >>> override({"arm": [{"name": "a"}]}, ["arm.*.steps=5", "name=quick"])
    {'arm': [{'name': 'a', 'steps': 5}], 'name': 'quick'}

    Raises:
        ValueError: A setting has no `=`, or names an entry or a table that is not there.
    """
    changed = deepcopy(tables)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set wants KEY=VALUE, got {setting!r}")
        _put(changed, key.strip().split("."), _value(text.strip()), setting)
    return changed


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(table: dict[str, Any], parts: list[str], value: Any, setting: str) -> None:
    first, *rest = parts
    if not rest:
        table[first] = value
        return
    below = table.setdefault(first, {})
    if isinstance(below, list) and all(isinstance(entry, dict) for entry in below):
        for entry in _chosen(below, rest[0], setting):
            if len(rest) < 2:
                raise ValueError(f"--set {setting}: a key of {first} {rest[0]!r} is wanted")
            _put(entry, rest[1:], value, setting)
    elif isinstance(below, dict):
        _put(below, rest, value, setting)
    else:
        raise ValueError(f"--set {setting}: {first!r} is a value, not a table")


def _chosen(entries: list[dict[str, Any]], name: str, setting: str) -> list[dict[str, Any]]:
    if name == "*":
        return entries
    found = [entry for entry in entries if name in (entry.get("label"), entry.get("name"))]
    if not found:
        names = [str(entry.get("label") or entry.get("name")) for entry in entries]
        raise ValueError(f"--set {setting}: nothing is called {name!r}{did_you_mean(name, names)}")
    return found
