"""linen modules: variables are `params` and the rest; the train argument goes by name."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import jax
from flax import errors, linen
from jax import Array

from precis.adapters.bound import Bound, fold_name, no_key, require_same_structure
from precis.types import PyTree, did_you_mean

# What flax's own layers call the argument that is true when a model is *not* being trained.
EVAL_ARGUMENTS = frozenset({"deterministic", "use_running_average"})
TRAIN_ARGUMENTS = frozenset({"train", "training", "is_training"})


@dataclass(frozen=True)
class LinenApply:
    """A linen module's forward pass as a pure function.

    Attributes:
        module: The module, unbound.
        train: The name of its train argument, or None.
    """

    module: linen.Module
    train: str | None

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
        variables = {"params": params, **state}
        kwargs |= _train_argument(self.train, is_training=train)
        rngs = None if key is None else _streams(key)
        # Collections which the state does not have, such as what `sow` collects, stay read-only.
        try:
            out, after = self.module.apply(
                variables, *args, rngs=rngs, mutable=list(state), **kwargs
            )
        except errors.InvalidRngError as error:
            raise no_key(type(self.module).__name__) from error
        require_same_structure(state, after, type(self.module).__name__)
        return out, after

    def rebuild(self, params: PyTree, state: PyTree) -> linen.Module:
        """The module, bound to these variables."""
        return self.module.bind({"params": params, **state})


def bind_linen(
    module: linen.Module,
    *inputs: Any,
    key: Array | jax.ShapeDtypeStruct | None,
    train: str | None,
    **kwargs: Any,
) -> Bound:
    """A linen module as parameters, state and a pure function; see `bind`."""
    name = type(module).__name__
    if key is None:
        raise TypeError(
            f"{name} is a linen module and has no weights yet: "
            f"bind(module, example_input, key=jax.random.key(0)) draws them"
        )
    _check_train_argument(module, train, kwargs)

    @jax.jit
    def init(key: Array) -> PyTree:
        return module.init(
            _streams(key), *inputs, **kwargs, **_train_argument(train, is_training=False)
        )

    variables = jax.eval_shape(init, key) if isinstance(key, jax.ShapeDtypeStruct) else init(key)
    state = {name: tree for name, tree in variables.items() if name != "params"}
    return Bound(variables.get("params", {}), state, LinenApply(module, train))


def _streams(key: Array) -> dict[str, Array]:
    # Streams of any other name fall back to linen's own default, which is called "params".
    return {name: fold_name(key, name) for name in ("params", "dropout")}


def _train_argument(name: str | None, *, is_training: bool) -> dict[str, Any]:
    if name is None:
        return {}
    return {name: not is_training if name in EVAL_ARGUMENTS else is_training}


def _check_train_argument(module: linen.Module, train: str | None, given: dict[str, Any]) -> None:
    call = f"{type(module).__name__}.__call__"
    signature = inspect.signature(module.__call__).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.values()):
        return
    if train is not None and train not in signature:
        raise TypeError(f"{call} has no argument {train!r}{did_you_mean(train, signature)}")
    modes = (TRAIN_ARGUMENTS | EVAL_ARGUMENTS) & set(signature)
    if train is None and modes - set(given):
        raise TypeError(
            f"{call} takes {sorted(modes)[0]!r}: say bind(..., train={sorted(modes)[0]!r}), "
            "or give it a fixed value"
        )
