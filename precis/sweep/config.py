"""A sweep file into a `Sweep`: strict, so that a key that nobody reads is an error."""

from __future__ import annotations

import json
import runpy
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from precis.sweep.overrides import override
from precis.sweep.spec import ArmSpec, Sweep, TaskSpec
from precis.train.recipe import Recipe
from precis.types import did_you_mean


def load_sweep(path: Path | str, settings: Iterable[str] = ()) -> Sweep:
    """The sweep that a TOML file holds, or that the function `sweep()` of a Python file gives.

    Args:
        path: The file. Its stem is the sweep's name unless it gives one.
        settings: `KEY=VALUE` overrides of a TOML file, see `override`.

    Raises:
        ValueError: No such file, no TOML, an unknown key, a wrong type, or a value out of range;
            the message names file and key, and for an unknown key the nearest valid one.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.toml"))
        raise ValueError(f"{path}: no such sweep file{did_you_mean(str(path), near)}")
    if path.suffix == ".py":
        return _from_python(path, tuple(settings))
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    tables = {"name": path.stem, **override(tables, settings)}
    return parse_sweep(tables, origin=str(path))


def parse_sweep(tables: Mapping[str, Any], *, origin: str) -> Sweep:
    """The sweep in parsed TOML; `origin` is what errors call it.

    Raises:
        ValueError: As for `load_sweep`.
    """
    _check_keys(tables, origin)
    if "grid" in tables:
        tables = {**tables, "grid": _flat(tables["grid"])}
    try:
        # JSON mode is strict about types, yet takes an array for a tuple.
        text = json.dumps(tables, default=str)
        return TypeAdapter(Sweep).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError("\n".join(_said(error, origin))) from None


def merge_recipe(recipe: Recipe, *changes: Mapping[str, Any], where: str) -> Recipe:
    """`recipe` with `changes` put in one after the other.

    Raises:
        ValueError: An unknown key, or a value that a recipe refuses; `where` opens the message.
    """
    merged: dict[str, Any] = asdict(recipe)
    for change in changes:
        _known(change, Recipe, where)
        merged |= change
    try:
        return Recipe(**merged)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _from_python(path: Path, settings: tuple[str, ...]) -> Sweep:
    if settings:
        raise ValueError(f"{path}: --set changes TOML files; a Python file decides for itself")
    found = runpy.run_path(str(path)).get("sweep")
    sweep = found() if callable(found) else None
    if not isinstance(sweep, Sweep):
        raise ValueError(f"{path}: a function sweep() that returns a precis.sweep.Sweep is wanted")
    return sweep


def _check_keys(tables: Mapping[str, Any], origin: str) -> None:
    _known(tables, Sweep, origin)
    _known(tables.get("recipe", {}), Recipe, f"{origin}: recipe")
    for name, noun in (("task", TaskSpec), ("arm", ArmSpec)):
        entries = tables.get(name, [])
        if not isinstance(entries, list):
            raise ValueError(f"{origin}: {name} is a list of tables, each headed [[{name}]]")
        for index, entry in enumerate(entries):
            where = f"{origin}: {name} {_called(entry, index)}"
            _known(entry, noun, where)
            _known(entry.get("recipe", {}), Recipe, f"{where}: recipe")


def _known(table: Any, noun: type, where: str) -> None:
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: a table is wanted, got {table!r}")
    names = [field.name for field in fields(noun)]
    for key in table:
        if key not in names:
            raise ValueError(f"{where}: unknown key {key!r}{did_you_mean(key, names)}")


def _called(entry: Any, index: int) -> str:
    name = entry.get("label") or entry.get("name") if isinstance(entry, Mapping) else None
    return repr(name) if name else f"number {index + 1}"


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """TOML reads `recipe.learning_rate = …` as nested tables; the grid's keys are dotted."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _said(error: ValidationError, origin: str) -> list[str]:
    """One line an error, with the key as a dotted path."""
    lines = []
    for each in error.errors():
        key = ".".join(map(str, each["loc"])) or "the file"
        message = each["msg"].removeprefix("Value error, ")
        got = "" if each["type"] in ("missing", "value_error") else f", got {each['input']!r}"
        lines.append(f"{origin}: {key}: {message[:1].lower()}{message[1:]}{got}")
    return lines
