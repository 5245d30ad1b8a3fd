"""What every room shares, without jax: the tree alias, path patterns, the nearest choice."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

PyTree: TypeAlias = Any


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `name`, or None if none looks alike.

    >>> nearest("mixed_fp16", ["bf16", "mixed_f16", "tf32"])
    'mixed_f16'
    """
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.4)
    return matches[0] if matches else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The end of an error message: `; did you mean 'x'?`, or all choices if none is near."""
    choices = list(choices)
    if not choices:
        return ""
    close = nearest(name, choices)
    return f"; did you mean {close!r}?" if close else f"; choose from {', '.join(choices)}"


def matches(pattern: str, path: str) -> bool:
    """Whether a path pattern is that of a whole path: `*` stops at `/`, `**` does not.

    >>> matches("blocks/*/kernel", "blocks/3/kernel"), matches("blocks/*", "blocks/3/kernel")
    (True, False)
    >>> matches("head/**", "head/dense/kernel"), matches("**/kernel", "kernel")
    (True, True)
    """
    return _compiled(pattern).fullmatch(path) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    wild = {"**/": "(?:.*/)?", "/**": "(?:/.*)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|/\*\*|\*\*|\*|\?)", pattern)
    return re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces))
