"""Which parameters are trained: a split by path, before the gradient is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from precis.tree import is_float, named_leaves, with_leaves
from precis.types import PyTree, did_you_mean, matches


class Split(NamedTuple):
    """Parameters in two parts, by their paths as rules know them.

    Attributes:
        trained: What is differentiated and updated; floats.
        frozen: The rest.
    """

    trained: dict[str, Any]
    frozen: dict[str, Any]


class Trainable(NamedTuple):
    """A way to split parameters, and back.

    Attributes:
        split: From parameters to their two parts.
        merge: From parameters and trained ones by path to parameters with these instead.
    """

    split: Callable[[PyTree], Split]
    merge: Callable[[PyTree, dict[str, Any]], PyTree]


def trainable(patterns: Iterable[str]) -> Trainable:
    """A split into the parameters that `patterns` match, and those that stay frozen.

    The trained part is what a gradient is taken of and an optimizer is made for, so that a frozen
    parameter costs neither a gradient nor a state; it may be an integer. Where several patterns
    match a path, the last one decides; one that begins with `!` freezes. If the first one does,
    everything else is trained.

    `merge(params, split(params).trained)` is `params`.

    >>> import jax.numpy as jnp
    >>> params = {"embed": jnp.ones(2), "head": {"kernel": jnp.ones(3), "bias": jnp.ones(1)}}
    >>> list(trainable(["head/**"]).split(params).trained)
    ['head/bias', 'head/kernel']
    >>> list(trainable(["!embed", "!**/bias"]).split(params).trained)
    ['head/kernel']

    Args:
        patterns: Patterns of paths, such as `head/**`; `*` stops at `/`, `**` does not.

    Raises:
        TypeError: `patterns` is one text.
        ValueError: There is none; when splitting, one matches no float parameter, or none is left
            to be trained.
    """
    if isinstance(patterns, str):
        raise TypeError(f"trainable wants a list of patterns, got the text {patterns!r}")
    rules = [(pattern.removeprefix("!"), not pattern.startswith("!")) for pattern in patterns]
    if not rules:
        raise ValueError("trainable wants at least one pattern; '**' trains everything")

    def split(params: PyTree) -> Split:
        named = named_leaves(params)
        floats = [path for path, leaf in named.items() if is_float(leaf)]
        chosen = dict.fromkeys(floats, not rules[0][1])
        for pattern, trains in rules:
            matching = [path for path in floats if matches(pattern, path)]
            if not matching:
                raise ValueError(
                    f"trainable {pattern!r} matches no float parameter"
                    f"{did_you_mean(pattern, floats)}"
                )
            chosen |= dict.fromkeys(matching, trains)
        trained = {path: leaf for path, leaf in named.items() if chosen.get(path)}
        if not trained:
            raise ValueError(f"trainable {_text(rules)} freezes all of {len(named)} parameters")
        return Split(trained, {path: x for path, x in named.items() if path not in trained})

    def merge(params: PyTree, trained: dict[str, Any]) -> PyTree:
        return with_leaves(params, named_leaves(params) | trained)

    return Trainable(split, merge)


def _text(rules: list[tuple[str, bool]]) -> list[str]:
    return [pattern if trains else f"!{pattern}" for pattern, trains in rules]
