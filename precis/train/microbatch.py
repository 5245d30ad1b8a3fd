"""A gradient in several parts: `lax.scan` over micro-batches within one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from precis.optim import varying
from precis.optim.norm import widened
from precis.tree import is_float, leaves_with_paths, map_floats
from precis.types import PyTree
from precis.walk.equations import varying_axes


def in_microbatches(
    gradient: Callable[..., Any],
    k: int,
    *,
    weight: Callable[[PyTree], Array] | None = None,
) -> Callable[..., Any]:
    """`gradient`, taken of `k` parts of the batch one after the other, with a `k`-th of the memory.

    Each leaf of the batch, [n, ...], is cut into k times [n / k, ...], in order. Gradients are
    summed in float32 (float64 stays so) and come out as that; they, the value and the metrics are
    means over the parts, by weight. State goes from part to part, so that BatchNorm sees k small
    batches; part i gets `fold_in(key, i)`. A NaN in one part is one in the result.

    Invariant: of a loss that is a mean over the batch, equal weights give the gradient of the whole
    batch, as far as float32 sums do not depend on order.

    Args:
        gradient: `gradient(params, state, batch, *, key, **kwargs)` gives
            `((value, (state, metrics)), grads)`, as `value_and_grad` does of a task's loss.
        k: How many parts; 1 gives `gradient` itself.
        weight: From a part of the batch to what it weighs, [] floating, such as how many tokens it
            has; by default all parts weigh alike.

    Raises:
        ValueError: `k` is no whole number of at least 1; when called, `k` does not divide the first
            axis of the batch, or the parts' states differ in dtype.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"accumulate is how many parts a batch is cut into, at least 1, got {k!r}")
    if k == 1:
        return gradient

    def fn(params: PyTree, state: PyTree, batch: PyTree, *, key: Array | None, **kw: Any) -> Any:
        parts = _cut(batch, k)

        def part(state: PyTree, index: Array, piece: PyTree) -> tuple[PyTree, PyTree]:
            own = None if key is None else jax.random.fold_in(key, index)
            (value, (state, metrics)), grads = gradient(params, state, piece, key=own, **kw)
            heavy = jnp.float32(1) if weight is None else jnp.asarray(weight(piece), jnp.float32)
            return state, (*_times((value, metrics, grads), heavy), heavy)

        def body(carry: tuple[PyTree, PyTree], x: tuple[Array, PyTree]) -> tuple[Any, None]:
            state, total = carry
            after, added = part(state, *x)
            _check_state(state, after)
            return (after, jax.tree.map(jnp.add, total, added)), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(part, state, jnp.int32(0), first)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        start = (state, zeros)
        # A carry keeps its type; inside shard_map what is added differs from device to device.
        axes = frozenset().union(*(varying_axes(jax.typeof(x)) for x in jax.tree.leaves(shapes)))
        if axes:
            start = map_floats(lambda x: varying(x, tuple(axes)), start)
        (state, total), _ = lax.scan(body, start, (jnp.arange(k), parts))
        *sums, weights = total
        value, metrics, grads = map_floats(lambda x: x / weights.astype(x.dtype), tuple(sums))
        return (value, (state, metrics)), grads

    return fn


def _cut(batch: PyTree, k: int) -> PyTree:
    for path, leaf in leaves_with_paths(batch):
        if not leaf.ndim or leaf.shape[0] % k:
            raise ValueError(
                f"accumulate={k} does not divide the first axis of the batch: "
                f"{path or 'it'} is {list(leaf.shape)}"
            )
    return jax.tree.map(lambda x: jnp.reshape(x, (k, x.shape[0] // k, *x.shape[1:])), batch)


def _times(tree: PyTree, weight: Array) -> Any:
    """`tree` in float32 or wider, times `weight`; a count becomes a mean count."""
    floats = jax.tree.map(lambda x: x if is_float(x) else jnp.asarray(x, jnp.float32), tree)
    return jax.tree.map(lambda x: x * weight.astype(x.dtype), widened(floats))


def _check_state(before: PyTree, after: PyTree) -> None:
    for (path, old), (_, new) in zip(
        leaves_with_paths(before), leaves_with_paths(after), strict=True
    ):
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            raise ValueError(
                f"state {path} was {old.dtype}{list(old.shape)} and became "
                f"{new.dtype}{list(new.shape)}: micro-batches want it to stay as it is"
            )
