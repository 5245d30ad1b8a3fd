"""nnx modules: split into plain trees, and merged anew inside each call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from precis.adapters.bound import Bound, fold_name, no_key, require_same_structure
from precis.adapters.nnx_state import State, attach, fill, join, map_state, plain
from precis.policy import Policy, PolicyRules
from precis.types import PyTree
from precis.walk import autocast as walk_autocast

# In the order in which a module is split: a leaf goes to the first filter that takes it. What is
# sown during a call is not state, since it is not there before the call.
FILTERS = (nnx.Param, nnx.RngKey, nnx.RngCount, nnx.Intermediate, ...)


Out = TypeVar("Out")


def autocast(
    fn: Callable[..., Out],
    policy: PolicyRules | Policy | str,
    *,
    key: Array | None = None,
    forward_mode: bool = False,
    pins: Literal["respect", "override"] = "respect",
) -> Callable[..., Out]:
    """`fn(module, *args, **kwargs)` under a policy, for a function that takes an nnx module itself.

    `fn` may call any method, and change the module's statistics and random counts: the module
    that the caller has is changed as it would be without. It goes inside `nnx.jit`, and inside
    `nnx.value_and_grad` or `nnx.grad`; rules match the parameters' paths in the module.

    >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> def loss(model, x):
    ...     return jnp.mean(model(x) ** 2)
    >>> value, grads = nnx.value_and_grad(autocast(loss, "mixed_bf16"))(model, jnp.ones((4, 3)))
    >>> value.dtype, grads["kernel"].dtype
    (dtype('float32'), dtype('float32'))

    Args:
        fn: Takes a module, or a tuple of them, first; the other arguments are arrays, trees of
            arrays, and constants.
        policy: A policy, rules by path, or the text of either.
        key: As `precis.autocast`.
        forward_mode: As `precis.autocast`.
        pins: As `precis.autocast`.

    Raises:
        TypeError: When called, if the first argument is no module.
        ValueError: When called, if `fn` changes a parameter.
    """

    @functools.wraps(fn)
    def wrapped(module: Any, *args: Any, **kwargs: Any) -> Out:
        _require_modules(module)
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)
        left: list[State] = []

        def pure(params_tree: PyTree, rest_tree: PyTree, *args: Any, **kwargs: Any) -> Any:
            given = fill(params, params_tree)
            own = nnx.merge(graphdef, given, fill(rest, rest_tree))
            out = fn(own, *args, **kwargs)
            _, same, after = nnx.split(own, nnx.Param, ...)
            _require_unchanged(plain(same), params_tree)
            left.append(after)
            return out, plain(after)

        how: dict[str, Any] = {"key": key, "forward_mode": forward_mode, "pins": pins}
        cast = walk_autocast(pure, policy, state_argnums=1, **how)
        out, after = cast(plain(params), plain(rest), *args, **kwargs)
        attach(module, left[-1], after)
        return out

    return wrapped


def _require_modules(module: Any) -> None:
    nodes: tuple[Any, ...] = module if type(module) is tuple else (module,)
    for node in nodes:
        if not isinstance(node, nnx.Module):
            raise TypeError(
                "adapters.nnx.autocast takes a function whose first argument is an nnx module, got "
                f"{type(node).__name__}; for parameters in a tree there is precis.autocast"
            )


def _require_unchanged(after: PyTree, before: PyTree) -> None:
    flat = zip(jax.tree.leaves_with_path(after), jax.tree.leaves(before), strict=True)
    changed = [jax.tree_util.keystr(path) for (path, a), b in flat if a is not b]
    if changed:
        raise ValueError(
            f"the function changes the parameter {changed[0]}: what changes in a forward pass is "
            "state, in an nnx.BatchStat or a Variable of your own"
        )


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
            fill(self.params, params),
            _derive_keys(self.keys, key),
            map_state(_zero, self.counts),
            fill(self.state, state),
        )
        try:
            out = module(*args, **kwargs)
        except TypeError as error:
            if key is None and "PRNG key" in str(error):
                raise no_key(self.name) from error
            raise
        *_, left = nnx.state(module, *FILTERS)
        after = plain(left)
        require_same_structure(state, after, self.name)
        return out, after

    def rebuild(self, params: PyTree, state: PyTree) -> nnx.Module:
        """A new module with these values, in the mode and with the keys of the one given."""
        return nnx.merge(
            self.graphdef,
            fill(self.params, params),
            map_state(_same, self.keys),
            map_state(_same, self.counts),
            fill(self.state, state),
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
        params=map_state(_shape, params),
        state=map_state(_shape, state),
        keys=keys,
        counts=counts,
    )
    return Bound(plain(params), plain(state), apply)


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
        return map_state(lambda _, old: jnp.zeros(old.shape), keys)
    root = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)

    def derive(path: tuple[Any, ...], old: Any) -> Array:
        mine = fold_name(root, join(path))
        return jax.random.split(mine, old.shape) if old.shape else mine

    return map_state(derive, keys)
