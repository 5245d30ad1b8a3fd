"""What every room shares, without jax: the tree alias, path patterns, the nearest choice."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

PyTree: TypeAlias = Any

# How many paths an error message lists.
_SHOWN = 6


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


def pattern_pairs(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What holds everywhere, and (pattern, value) for each rule that follows a `;`.

    >>> pattern_pairs("w8a8; head/**: f32")
    ('w8a8', [('head/**', 'f32')])

    Raises:
        ValueError: A rule without a colon, or with nothing on one side of it.
    """
    base, *rest = (part.strip() for part in text.split(";"))
    pairs = []
    for part in filter(None, rest):
        pattern, _, value = (side.strip() for side in part.partition(":"))
        if not pattern or not value:
            raise ValueError(
                f"rule {part!r} in {text!r}: a pattern, a colon and what it gets are wanted, "
                f"as in '{base}; head/**: f32'"
            )
        pairs.append((pattern, value))
    return base, pairs


def what_there_is(pattern: str, paths: Iterable[str]) -> str:
    """The end of an error message about a pattern that matches none of `paths`.

    >>> what_there_is("heads/**", ["blocks/kernel", "head/kernel"])
    "there are blocks/kernel, head/kernel; nearest: 'head/**'"
    """
    unique = list(dict.fromkeys(paths))
    if not unique:
        return "there are no parameters and no matrix ops"
    close = set(sorted(unique, key=lambda path: _unlikeness(pattern, path))[:_SHOWN])
    more = f" and {len(unique) - _SHOWN} more" if len(unique) > _SHOWN else ""
    there = f"there are {', '.join(path for path in unique if path in close)}{more}"
    modules = dict.fromkeys(path.split("/")[0] for path in unique)
    if "/" in pattern and (prefix := nearest(pattern.split("/")[0], modules)):
        mended = "/".join([prefix, *pattern.split("/")[1:]])
        if any(matches(mended, path) for path in unique):
            return f"{there}; nearest: {mended!r}"
    best = nearest(pattern, unique)
    return f"{there}; nearest: {best!r}" if best else there


def _unlikeness(pattern: str, path: str) -> float:
    return -difflib.SequenceMatcher(None, pattern, path).ratio()


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    wild = {"**/": "(?:.*/)?", "/**": "(?:/.*)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|/\*\*|\*\*|\*|\?)", pattern)
    return re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces))
