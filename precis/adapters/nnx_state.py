"""nnx states as plain trees, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from flax import nnx

from precis.types import PyTree

State: TypeAlias = nnx.State[Any, Any]

# A leaf of a `State` is a Variable or a bare array, either way a pytree of one array. Put together
# as such, it is a new Variable, and belongs to the trace that made it.


def plain(state: State) -> PyTree:
    """The values of `state` in nested dicts with string keys, lists' indices included."""
    tree: dict[str, Any] = {}
    for path, leaf in nnx.to_flat_state(state):
        *parents, last = map(str, path)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _value(path, leaf)
    return tree


def fill(template: State, tree: PyTree) -> State:
    """`template` with new Variables that hold the values which `tree` has at the same paths."""

    def find(path: tuple[Any, ...], _: Any) -> Any:
        node = tree
        for part in path:
            if not isinstance(node, dict) or str(part) not in node:
                raise ValueError(f"the module has {join(path)!r}, the tree that it was given not")
            node = node[str(part)]
        return node

    return map_state(find, template)


def map_state(fn: Callable[[tuple[Any, ...], Any], Any], state: State) -> State:
    """`state` with new Variables that hold `fn(path, value)`."""
    return nnx.from_flat_state(
        [
            (path, jax.tree.unflatten(jax.tree.structure(leaf), [fn(path, _value(path, leaf))]))
            for path, leaf in nnx.to_flat_state(state)
        ]
    )


def _value(path: tuple[Any, ...], leaf: Any) -> Any:
    values = jax.tree.leaves(leaf)
    if len(values) != 1:
        raise TypeError(
            f"{join(path)!r} holds {len(values)} arrays in one Variable, where one was wanted: "
            "give each array a Variable of its own"
        )
    return values[0]


def join(path: tuple[Any, ...]) -> str:
    """A path as `a/b/kernel`."""
    return "/".join(map(str, path))


def attach(module: Any, template: State, tree: PyTree) -> None:
    """Puts the values of a plain tree into a module's Variables, and adds those that were sown.

    Args:
        module: The module to change.
        template: A state with a leaf for each value, of its Variable's type.
        tree: The values.
    """
    held = dict(nnx.to_flat_state(nnx.state(module)))
    filled = nnx.to_flat_state(fill(template, tree))
    nnx.update(module, nnx.from_flat_state([pair for pair in filled if pair[0] in held]))
    for path, leaf in filled:
        if path not in held:
            *parents, last = path
            setattr(functools.reduce(_child, parents, module), str(last), leaf)


def _child(node: Any, part: Any) -> Any:
    return getattr(node, part) if isinstance(part, str) else node[part]
