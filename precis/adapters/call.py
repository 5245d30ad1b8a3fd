"""`call_of`: the float call of a model of any kind, as a function of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen, nnx

from precis.adapters.bound import Bound
from precis.adapters.nnx import bind_nnx
from precis.adapters.nnx_state import plain
from precis.tree import has_collections
from precis.types import PyTree


def call_of(model: Any, params: PyTree = None) -> tuple[Callable[..., Any], PyTree]:
    """`call(params, *args)` as users of `model` make it, and the parameters as a plain tree.

    Args:
        model: A linen or nnx module, a `Bound`, or a function.
        params: The parameters: linen's, with or without other collections; of nnx, a plain tree, an
            `nnx.State`, or None for the module's own.

    Raises:
        TypeError: A model of another kind, or one without parameters.
    """
    if isinstance(model, nnx.Module):
        return _nnx(model, params)
    if params is None and not isinstance(model, Bound):
        raise TypeError(f"{type(model).__name__} holds no parameters: give them")
    match model:
        case linen.Module() if has_collections(params):
            return model.apply, params
        case linen.Module():
            return lambda params, *args, **kw: model.apply({"params": params}, *args, **kw), params
        case Bound():
            return model.apply, model.params if params is None else params
        case _ if callable(model) and not isinstance(model, type):
            return model, params
        case _:
            raise TypeError(
                f"a linen or nnx module, a Bound or a function is wanted, got {model!r}"
            )


def _nnx(module: nnx.Module, params: PyTree) -> tuple[Callable[..., Any], PyTree]:
    bound = bind_nnx(module)
    own = plain(params) if isinstance(params, nnx.State) else params
    tree = bound.params if own is None else own
    if bound.state:
        return bound.apply, tree
    return lambda params, *args, **kw: bound.apply(params, {}, *args, **kw)[0], tree
