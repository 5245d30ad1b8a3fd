"""Training on many devices: each takes the gradient of its part of a batch, and all agree on one.

The functions are for the inside of `jax.shard_map`, where parameters are the same on all devices
and batches are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax

from precis.formats import Format, wide_dtype
from precis.optim import AxisNames, is_same, reduce_gradients, varying
from precis.tree import map_floats
from precis.types import PyTree


def over_replicas(
    gradient: Callable[..., Any], axis_name: AxisNames | None, fmt: Format
) -> Callable[..., Any]:
    """`gradient` of a batch that is spread over replicas, the same on each of them.

    Gradients are averaged once, in `fmt`; the loss, and floats that come with it, in float32.
    Batches of one size are wanted, or the means would have to be weighted.

    Args:
        gradient: `gradient(params, *args, **kwargs) -> (out, grads)`, as from `value_and_grad`.
        axis_name: Mapped axes over which parameters are the same; None gives `gradient` back.
        fmt: What gradients are sent in, role r of a policy.
    """
    if axis_name is None:
        return gradient
    names = axis_name

    def fn(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        out, grads = gradient(varying(params, names), *args, **kwargs)
        if is_same(jax.tree.leaves(out)[0], names):
            raise ValueError(
                f"the loss is the same over {names!r} already, and its gradients would be averaged "
                "twice: return each device's own loss, without pmean"
            )
        return map_floats(lambda x: _averaged(x, names), out), reduce_gradients(grads, names, fmt)

    return fn


def own_key(key: Array | None, axis_name: AxisNames | None) -> Array | None:
    """A key for each replica, so that dropout is not the same on all of them."""
    if key is None or axis_name is None:
        return key
    return jax.random.fold_in(key, lax.axis_index(axis_name))


def _averaged(x: Array, axis_name: AxisNames) -> Array:
    """[...] of the dtype of `x`: its mean over replicas, taken in float32 or wider."""
    if is_same(x, axis_name):
        return x
    return lax.pmean(x.astype(wide_dtype(x.dtype)), axis_name).astype(x.dtype)
