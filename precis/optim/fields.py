"""Which parts of an optax state are moments: NamedTuple fields by optax's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax

from precis.types import PyTree

# scale_by_adam, scale_by_lion, scale_by_rms and their kin; trace is SGD's momentum.
FIRST = ("mu", "trace")
SECOND = ("nu",)


def map_moments(fn: Callable[[PyTree, str], Any], state: PyTree) -> PyTree:
    """`state` with `fn(tree, name)` in place of each moment, at any depth."""

    def change(node: Any) -> Any:
        if not _has_moments(node):
            return node
        names = [name for name in FIRST + SECOND if name in node._fields]
        return node._replace(**{name: fn(getattr(node, name), name) for name in names})

    return jax.tree.map(change, state, is_leaf=_has_moments)


def moments_of(state: PyTree) -> list[PyTree]:
    """The moments in `state`, in order."""
    found: list[PyTree] = []
    map_moments(lambda tree, _: found.append(tree), state)
    return found


def seconds_of(state: PyTree) -> list[bool]:
    """Which of `moments_of` are second ones."""
    found: list[bool] = []
    map_moments(lambda _, name: found.append(name in SECOND), state)
    return found


def with_moments(state: PyTree, moments: Iterable[PyTree]) -> PyTree:
    """`state` with other moments, in the order of `moments_of`."""
    left = iter(moments)
    return map_moments(lambda _, __: next(left), state)


def _has_moments(node: Any) -> bool:
    fields = getattr(node, "_fields", ()) if isinstance(node, tuple) else ()
    return any(name in fields for name in FIRST + SECOND)
