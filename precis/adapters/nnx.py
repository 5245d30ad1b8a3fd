"""nnx modules: split into plain trees, and merged anew inside each call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from precis.adapters.bound import Bound, fold_name, no_key, require_same_structure
from precis.types import PyTree

State: TypeAlias = nnx.State[Any, Any]

# In the order in which a module is split: a leaf goes to the first filter that takes it. What is
# sown during a call is not state, since it is not there before the call.
FILTERS = (nnx.Param, nnx.RngKey, nnx.RngCount, nnx.Intermediate, ...)


@dataclass(frozen=True, eq=False)
class NnxApply:
    """An nnx module's forward pass as a pure function.

    Attributes:
        name: The module's class, for messages.
        graphdef: What the module is but for its leaves, in the mode in which it was given.
        train_graphdef: The same after `train()`.
        eval_graphdef: The same after `eval()`.
        params: A leaf for each parameter, without its values.
        state: A leaf for all else, without values.
        keys: The module's random keys.
        counts: How often each of them was drawn from.
    """

    name: str
    graphdef: nnx.GraphDef[Any]
    train_graphdef: nnx.GraphDef[Any]
    eval_graphdef: nnx.GraphDef[Any]
    params: State
    state: State
    keys: State
    counts: State

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        *args: Any,
        key: Array | None = None,
        train: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, PyTree]:
        """What the module returns, and its state afterwards; see `Bound`."""
        module = nnx.merge(
            self.train_graphdef if train else self.eval_graphdef,
            _fill(self.params, params),
            _derive_keys(self.keys, key),
            _map(_zero, self.counts),
            _fill(self.state, state),
        )
        try:
            out = module(*args, **kwargs)
        except TypeError as error:
            if key is None and "PRNG key" in str(error):
                raise no_key(self.name) from error
            raise
        *_, left = nnx.state(module, *FILTERS)
        after = _plain(left)
        require_same_structure(state, after, self.name)
        return out, after

    def rebuild(self, params: PyTree, state: PyTree) -> nnx.Module:
        """A new module with these values, in the mode and with the keys of the one given."""
        return nnx.merge(
            self.graphdef,
            _fill(self.params, params),
            _map(_same, self.keys),
            _map(_same, self.counts),
            _fill(self.state, state),
        )


def bind_nnx(module: nnx.Module) -> Bound:
    """An nnx module as parameters, state and a pure function; see `bind`."""
    mine = nnx.clone(module)
    nnx.pop(mine, nnx.Intermediate)
    graphdef, params, keys, counts, _, state = nnx.split(mine, *FILTERS)
    mine.train()
    train_graphdef = nnx.graphdef(mine)
    mine.eval()
    eval_graphdef = nnx.graphdef(mine)
    apply = NnxApply(
        name=type(module).__name__,
        graphdef=graphdef,
        train_graphdef=train_graphdef,
        eval_graphdef=eval_graphdef,
        params=_map(_shape, params),
        state=_map(_shape, state),
        keys=keys,
        counts=counts,
    )
    return Bound(_plain(params), _plain(state), apply)


def _shape(_: Any, value: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def _zero(_: Any, value: Any) -> Array:
    return jnp.zeros_like(value)


def _same(_: Any, value: Any) -> Any:
    return value


def _derive_keys(keys: State, key: Array | None) -> State:
    """A key of its own for each of the module's generators, from `key` and the generator's path."""
    if key is None:
        # No keys at all: whoever draws from them is told so by jax, and the caller by `no_key`.
        return _map(lambda _, old: jnp.zeros(old.shape), keys)
    root = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)

    def derive(path: tuple[Any, ...], old: Any) -> Array:
        mine = fold_name(root, _join(path))
        return jax.random.split(mine, old.shape) if old.shape else mine

    return _map(derive, keys)


# A leaf of a `State` is a Variable or a bare array, either way a pytree of one array. Put together
# as such, it is a new Variable, and belongs to the trace that made it.


def _plain(state: State) -> PyTree:
    """The values of `state` in nested dicts with string keys, lists' indices included."""
    tree: dict[str, Any] = {}
    for path, leaf in nnx.to_flat_state(state):
        *parents, last = map(str, path)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _value(path, leaf)
    return tree


def _fill(template: State, tree: PyTree) -> State:
    """`template` with new Variables that hold the values which `tree` has at the same paths."""

    def find(path: tuple[Any, ...], _: Any) -> Any:
        node = tree
        for part in path:
            if not isinstance(node, dict) or str(part) not in node:
                raise ValueError(f"the module has {_join(path)!r}, the tree that it was given not")
            node = node[str(part)]
        return node

    return _map(find, template)


def _map(fn: Callable[[tuple[Any, ...], Any], Any], state: State) -> State:
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
            f"{_join(path)!r} holds {len(values)} arrays in one Variable, where one was wanted: "
            "give each array a Variable of its own"
        )
    return values[0]


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
