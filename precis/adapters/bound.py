"""`Bound`: a model as its parameters, its state and a pure function; what both libraries share."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple, Protocol

import jax
from jax import Array

from precis.tree import leaves_with_paths
from precis.types import PyTree


class Apply(Protocol):
    """A model's forward pass as a pure function, and the model that it came from."""

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        *args: Any,
        key: Array | None = None,
        train: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, PyTree]:
        """What the model returns for these arguments, and its state afterwards."""
        ...

    def rebuild(self, params: PyTree, state: PyTree) -> Any:
        """A new module that holds these parameters and this state."""
        ...


class Bound(NamedTuple):
    """A model taken apart: `out, state = apply(params, state, x, key=key, train=True)`.

    Attributes:
        params: Nested dicts with string keys; what is trained. Each leaf has the dtype that the
            module gave it, and `apply` computes with whatever dtypes it is handed.
        state: Nested dicts with string keys; all else that the module carries from call to call,
            such as BatchNorm's running statistics. Random number generators are not in it:
            `apply` derives them from its `key`.
        apply: `apply(params, state, *args, key=None, train=False, **kwargs) -> (out, state)`,
            pure: jit, grad, vmap, scan and `precis.autocast` compose with it. The returned state
            has the structure of the given one.
    """

    params: PyTree
    state: PyTree
    apply: Apply


def fold_name(key: Array, name: str) -> Array:
    """A key for `name`: the same in each process, and another for each other name."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def require_same_structure(before: PyTree, after: PyTree, owner: str) -> None:
    """Raises unless a state keeps its structure, without which no loop could carry it."""
    if jax.tree.structure(before) == jax.tree.structure(after):
        return
    had = {path for path, _ in leaves_with_paths(before)}
    has = {path for path, _ in leaves_with_paths(after)}
    raise ValueError(
        f"a call of {owner} must return the state that it was given, with new values; "
        f"it lost {sorted(had - has)} and gained {sorted(has - had)}. "
        "Make what it keeps when the module is made, not when it is called"
    )


def no_key(owner: str) -> ValueError:
    """The error for a call that draws random numbers and was given nothing to draw from."""
    return ValueError(
        f"{owner} draws random numbers in this call (dropout?) and got no key: "
        "pass apply(..., key=jax.random.key(0)), a fresh one for each step"
    )
