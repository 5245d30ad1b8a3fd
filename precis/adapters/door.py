"""`bind` and `unbind`: the same two calls for a module of either library."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen, nnx
from jax import Array

from precis.adapters.bound import Bound
from precis.adapters.linen import bind_linen
from precis.adapters.nnx import bind_nnx


def bind(
    module: linen.Module | nnx.Module,
    *inputs: Any,
    key: Array | jax.ShapeDtypeStruct | None = None,
    train: str | None = None,
    **kwargs: Any,
) -> Bound:
    """`module` as parameters, state and a pure function.

    >>> import jax, jax.numpy as jnp
    >>> params, state, apply = bind(linen.Dense(2), jnp.ones((1, 3)), key=jax.random.key(0))
    >>> out, state = apply(params, state, jnp.ones((5, 3)))
    >>> out.shape, sorted(params)
    ((5, 2), ['bias', 'kernel'])

    An nnx module brings its own weights: `bind(module)` is all, and `apply` runs it in the mode
    that its `train()` or `eval()` would set. The module is read, never changed. A linen module
    has no weights yet and is given what it needs to make them.

    Where only `apply` is wanted, nothing need be drawn: a key that is a shape,
    `key=jax.eval_shape(jax.random.key, 0)`, or an nnx module made under `nnx.eval_shape`, gives
    shapes for parameters and state.

    Args:
        module: A linen or nnx module.
        *inputs: linen: example inputs; their shapes and dtypes are what counts.
        key: linen: the key from which the parameters are drawn.
        train: linen: the name of the argument of `__call__` that says whether this is training:
            `"train"`, for example. `"deterministic"` and `"use_running_average"` are known to
            mean the opposite. None if it takes no such argument.
        **kwargs: linen: further arguments of the call that makes the parameters.

    Raises:
        TypeError: No module of flax; no key or no such argument for linen; inputs for nnx.
    """
    match module:
        case linen.Module():
            return bind_linen(module, *inputs, key=key, train=train, **kwargs)
        case nnx.Module():
            if inputs or kwargs or key is not None or train is not None:
                raise TypeError(
                    "an nnx module has its weights and modes already: bind(module) takes nothing "
                    "else; the key for dropout goes to apply(..., key=key, train=True)"
                )
            return bind_nnx(module)
        case type():
            raise TypeError(f"bind takes a module, got the class {module.__name__}: make one first")
        case _:
            raise TypeError(f"bind takes a linen or nnx module, got {type(module).__name__}")


def unbind(bound: Bound) -> Any:
    """A new module with the parameters and the state that `bound` holds.

    After training: `unbind(bound._replace(params=params, state=state))`. An nnx module comes back
    in the mode and with the random number generators that it had; a linen module comes back bound
    to its variables, so that `unbind(bound)(x)` computes what `bound.apply` does.
    """
    return bound.apply.rebuild(bound.params, bound.state)
