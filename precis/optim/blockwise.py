"""Runs an optimizer block by block, its moments in few bits between steps and never all in float32.

A leaf that is large enough has an inner state of its own and is updated in a loop over chunks of
it: decode, update, encode, in place. The other leaves share one inner state, as it is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from precis.formats import FloatFormat, ScaledFormat
from precis.optim.applied import Applied, Apply, Applying, apply_update
from precis.optim.elementwise import mixing_operation
from precis.optim.fields import FIRST, SECOND, map_moments, moments_of, with_moments
from precis.optim.moment import blank, read, rows_of, width_of, write
from precis.optim.norm import widened
from precis.tree import leaves_with_paths, named_leaves, with_leaves
from precis.types import PyTree

# Entries that are decoded at a time: their float32 values stay in a core's cache. On CPU half and
# twice as many are as fast; 16 times fewer are not.
_CHUNK = 1 << 18

StoredFormat = FloatFormat | ScaledFormat


class BlockwiseState(NamedTuple):
    """What `quantized_state` carries from step to step.

    Attributes:
        rest: The inner state of small, kept and integer leaves, by their paths.
        leaves: By path, the inner state of each other leaf, its moments as `Moment` or flat.
    """

    rest: PyTree
    leaves: dict[str, PyTree]


def blockwise(
    inner: optax.GradientTransformation,
    first: StoredFormat,
    second: StoredFormat,
    *,
    kept: Callable[[PyTree], set[str]],
) -> Applying:
    """`inner` with moments in formats `first` and `second`, but for the leaves that are kept.

    Args:
        inner: An optax transformation that treats each entry by itself.
        first: Format of the fields `mu` and `trace`.
        second: Format of `nu`.
        kept: Gives the paths of the leaves of a tree that keep their moments as they are.

    Raises:
        ValueError: `inner` mixes the entries of a leaf.
    """
    if name := mixing_operation(inner):
        raise ValueError(
            f"moments in blocks want an optimizer that treats each entry by itself, and this one "
            f"mixes those of a leaf ({name}): chain what does so before or after it, as in "
            "optax.chain(optax.clip_by_global_norm(1.0), quantized_state(optax.adam(1e-3)))"
        )
    wrapped = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> BlockwiseState:
        named = named_leaves(params)
        paths = kept(params)
        rest = {path: x for path, x in named.items() if path in paths}
        leaves = {
            path: _stored(wrapped, {path: widened(x)}, first, second)
            for path, x in named.items()
            if path not in rest
        }
        return BlockwiseState(wrapped.init(widened(rest)), leaves)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        apply: Apply | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, BlockwiseState]:
        grads = named_leaves(updates)
        old = None if params is None else named_leaves(params)

        def step(part: dict[str, Array], inner_state: PyTree, old: Any) -> Applied:
            wide = widened(part)
            if apply is not None:
                return apply_update(inner, wide, inner_state, old, apply=apply, **extra_args)
            made, inner_state = wrapped.update(wide, inner_state, widened(old), **extra_args)
            return Applied(made, inner_state, ())

        rest = {path: g for path, g in grads.items() if path not in state.leaves}
        parts = [step(rest, state.rest, old and {path: old[path] for path in rest})]
        for path, leaf_state in state.leaves.items():
            leaf = _Leaf(path, grads[path], None if old is None else old[path])
            parts.append(_in_chunks(step, leaf, leaf_state, in_params=apply is not None))
        new = {path: x for part in parts for path, x in part.params.items()}
        out = with_leaves(updates, new)
        leaves = dict(zip(state.leaves, (part.state for part in parts[1:]), strict=True))
        new_state = BlockwiseState(parts[0].state, leaves)
        if apply is None:
            return out, new_state
        tally = jax.tree.map(lambda *counts: sum(counts), *(part.tally for part in parts))
        return (out, tally), new_state

    return Applying(init, update)


class _Leaf(NamedTuple):
    path: str
    grad: Array
    param: Array | None


_Step = Callable[[dict[str, Array], PyTree, Any], Applied]


def _in_chunks(step: _Step, leaf: _Leaf, state: PyTree, *, in_params: bool) -> Applied:
    """`step` on all of a leaf, a chunk at a time; with `in_params` it gives parameters.

    What it gives is written where it came from: new parameters over the old ones, updates over the
    gradients.
    """
    path, grad = leaf.path, leaf.grad.reshape(-1)
    param = None if leaf.param is None else leaf.param.reshape(-1)
    width = math.lcm(*(width_of(moment) for moment in moments_of(state)))
    full = max(_CHUNK // width, 1) * width

    def chunk(start: Any, size: int, out: Array, moments: list[Any]) -> tuple[Any, Applied]:
        def part(x: Array | None) -> Any:
            return None if x is None else {path: rows_of(x, start, size, width)}

        opened = with_moments(state, ({path: read(x, start, size, width)} for x in moments))
        done = step(part(grad if in_params else out), opened, part(out if in_params else param))
        new = done.params[path].reshape(-1)[:size]
        out = lax.dynamic_update_slice_in_dim(out, new, start, 0)
        pairs = zip(moments, moments_of(done.state), strict=True)
        return (out, [write(old, start, size, tree[path]) for old, tree in pairs]), done

    def body(i: Array, carry: Any) -> Any:
        (out, moments), tally = carry
        new, done = chunk(i * full, full, out, moments)
        return new, jax.tree.map(jnp.add, tally, done.tally)

    out = param if in_params else widened(grad)
    assert out is not None
    before = (out.size - 1) // full  # chunks before the last one, which may be shorter
    last = before * full
    finish = functools.partial(chunk, last, out.size - last)
    carry = (out, moments_of(state))
    shapes = jax.eval_shape(lambda *carry: finish(*carry)[1].tally, *carry)
    tally = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    carry, tally = lax.fori_loop(0, before, body, (carry, tally))
    # The last one after the loop: before it, its update would copy the leaf.
    (out, moments), done = finish(*carry)
    return Applied(
        {path: out.reshape(leaf.grad.shape)},
        with_moments(done.state, moments),
        jax.tree.map(jnp.add, tally, done.tally),
    )


def _stored(
    inner: Any, leaf: dict[str, Array], first: StoredFormat, second: StoredFormat
) -> PyTree:
    """The first inner state of one leaf, its moments in storage.

    Raises:
        ValueError: It holds other arrays of the leaf's size, of which it is not known what they
            are, or moments that do not start from 0.
    """
    shapes = jax.eval_shape(inner.init, leaf)
    # A few entries of it tell how moments start, without all of them in float32.
    with jax.ensure_compile_time_eval():
        state = inner.init({path: jnp.zeros((1,), x.dtype) for path, x in leaf.items()})
    others = with_moments(state, (None for _ in moments_of(state)))
    wanted = with_moments(shapes, (None for _ in moments_of(shapes)))
    for (path, x), y in zip(leaves_with_paths(others), jax.tree.leaves(wanted), strict=True):
        if x.shape != y.shape:
            raise ValueError(
                f"an optimizer whose state is in few bits keeps {', '.join(FIRST + SECOND)} and "
                f"scalars, and this one keeps {path} {list(y.shape)} as well"
            )
    if any(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(moments_of(state))):
        raise ValueError("moments in blocks start from 0, and those of this optimizer do not")
    (shape,) = (x.shape for x in leaf.values())
    return map_moments(lambda _, name: blank(shape, first if name in FIRST else second), state)
