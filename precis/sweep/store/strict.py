"""Strict JSON: no NaN literals, one canonical text, and files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def strict(tree: Any) -> Any:
    """`tree` with the floats that JSON lacks as the words `NaN`, `Infinity` and `-Infinity`.

    >>> strict({"loss": float("-inf")})
    {'loss': '-Infinity'}
    """
    match tree:
        case Mapping():
            return {str(key): strict(value) for key, value in tree.items()}
        case list() | tuple():
            return [strict(value) for value in tree]
        case float() if math.isnan(tree):
            return "NaN"
        case float() if math.isinf(tree):
            return "Infinity" if tree > 0 else "-Infinity"
        case _:
            return tree


def canonical(tree: Any) -> str:
    """The one JSON text of `tree`: sorted keys, no spaces.

    >>> canonical({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2.0]}'
    """
    return json.dumps(strict(tree), sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_text(path: Path, text: str) -> None:
    """Writes a file that is seen whole or not at all, whenever this process may be killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def write_json(path: Path, tree: Any) -> None:
    """Writes `tree` as strict, readable JSON, whole or not at all."""
    write_text(path, json.dumps(strict(tree), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file, or none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
