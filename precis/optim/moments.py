"""Optimizer moments in fewer bytes: stored in a policy's m and v, computed in float32."""

from __future__ import annotations

from typing import Any

import jax
import optax

from precis.formats import FloatFormat, cast_to, parse_float
from precis.optim.norm import widened
from precis.tree import map_floats
from precis.types import PyTree

# optax's field names: scale_by_adam, scale_by_lion and their kin; trace is SGD's momentum.
_FIRST = ("mu", "trace")
_SECOND = ("nu",)
_STORABLE = ("float64", "float32", "float16", "bfloat16")


def stored_moments(
    inner: optax.GradientTransformation, m: FloatFormat | str, v: FloatFormat | str
) -> optax.GradientTransformationExtraArgs:
    """`inner`, with its moments kept in formats `m` and `v` between steps.

    At any depth of the inner state, a NamedTuple's field `mu` or `trace` is stored in `m` and
    `nu` in `v`; the rest stays as it is, and a state without such fields too. A step widens them,
    the gradients and the parameters to float32 (float64 stays so), runs `inner`, and rounds the
    moments to nearest even on their way back; what overflows becomes Inf, NaN stays NaN. Updates
    come out in float32 and are rounded once, where they are added.

    Invariant: with `m` and `v` float32, and float32 gradients and parameters, `inner` bit for bit.

    >>> import jax.numpy as jnp
    >>> state = stored_moments(optax.adam(1e-3), "bf16", "f32").init({"w": jnp.zeros(4)})
    >>> state[0].mu["w"].dtype, state[0].nu["w"].dtype
    (dtype(bfloat16), dtype('float32'))

    Args:
        inner: Any optax transformation.
        m: Format of first moments, or its name.
        v: Format of second moments, or its name.

    Raises:
        ValueError: A format is no float format, or has no dtype to be stored in.
    """
    first, second = _storable("m", m), _storable("v", v)
    wrapped = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> PyTree:
        return _stored(wrapped.init(widened(params)), first, second)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        state = _map_moments(lambda tree, _: widened(tree), state)
        updates, state = wrapped.update(widened(updates), state, widened(params), **extra_args)
        return updates, _stored(state, first, second)

    return optax.GradientTransformationExtraArgs(init, update)


def _stored(state: PyTree, first: FloatFormat, second: FloatFormat) -> PyTree:
    def store(tree: PyTree, name: str) -> PyTree:
        fmt = first if name in _FIRST else second
        return map_floats(lambda x: cast_to(x, fmt), tree)

    return _map_moments(store, state)


def _map_moments(fn: Any, state: PyTree) -> PyTree:
    """`state` with `fn(tree, name)` in place of each moment."""

    def change(node: Any) -> Any:
        if not _has_moments(node):
            return node
        names = [name for name in _FIRST + _SECOND if name in node._fields]
        return node._replace(**{name: fn(getattr(node, name), name) for name in names})

    return jax.tree.map(change, state, is_leaf=_has_moments)


def _has_moments(node: Any) -> bool:
    fields = getattr(node, "_fields", ()) if isinstance(node, tuple) else ()
    return any(name in fields for name in _FIRST + _SECOND)


def _storable(role: str, fmt: FloatFormat | str) -> FloatFormat:
    fmt = parse_float(fmt)
    if fmt.dtype is None:
        raise ValueError(
            f"{role}={fmt} has no dtype to store moments in; choose from {', '.join(_STORABLE)}"
        )
    return fmt
