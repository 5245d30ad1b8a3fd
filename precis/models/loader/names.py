"""Names of arrays on disk and paths in a tree: `a.b.weight` or `a/b/kernel`, and nested dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def separator_of(names: Iterable[str]) -> str:
    """What joins the parts of these names: `/` if one has it, else PyTorch's `.`.

    So a path is its name with `/` for the separator, and the other way round.

    >>> separator_of(["a/b.c"]), separator_of(["model.norm.weight"])
    ('/', '.')
    """
    return "/" if any("/" in name for name in names) else "."


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by path as dicts in dicts.

    >>> nested({"a/kernel": 1, "a/bias": 2, "b": 3})
    {'a': {'kernel': 1, 'bias': 2}, 'b': 3}

    Raises:
        ValueError: A path is that of a leaf and of leaves below it.
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, name = path.split("/")
        at = tree
        for depth, part in enumerate(above):
            if "/".join(above[: depth + 1]) in leaves:
                raise ValueError(f"{'/'.join(above[: depth + 1])} is a leaf, and so is {path}")
            at = at.setdefault(part, {})
        at[name] = leaf
    return tree
