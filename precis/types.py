"""What every room shares, without jax: the tree alias, and the nearest valid choice."""

from __future__ import annotations

import difflib
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
