"""Runs an optimizer block by block, its moments in few bits between steps and never all in float32.

A leaf that is large enough has an inner state of its own and is updated in a loop over chunks of
it: decode, update, encode, in place. The other leaves share one inner state, as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from precis.formats import FloatFormat, ScaledFormat
from precis.optim.applied import Applied, Applying, InPlace, taken
from precis.optim.chunks import Leaf, Step, in_chunks
from precis.optim.elementwise import mixing_operation
from precis.optim.fields import FIRST, SECOND, map_moments, moments_of, with_moments
from precis.optim.moment import blank
from precis.optim.norm import widened
from precis.tree import leaves_with_paths, named_leaves, with_leaves
from precis.types import PyTree

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
        in_place: InPlace | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, BlockwiseState]:
        grads = named_leaves(updates)
        # What is kept of a parameter may be a tree, in the place of its gradient.
        old = None if params is None else dict(zip(grads, _flat_like(updates, params), strict=True))
        how = in_place or InPlace(_give_updates)

        def step(part: dict[str, Array], inner_state: PyTree, old: Any) -> Applied:
            wide = widened(how.prepared(part))
            made, inner_state = wrapped.update(wide, inner_state, how.shown(old), **extra_args)
            new, tally = how.apply(old, made)
            return Applied(new, inner_state, tally)

        parts = _parts(step, grads, state, old, how=how, in_params=in_place is not None)
        new = {path: x for part in parts for path, x in part.params.items()}
        leaves = dict(zip(state.leaves, (part.state for part in parts[1:]), strict=True))
        out, new_state = with_leaves(updates, new), BlockwiseState(parts[0].state, leaves)
        if in_place is None:
            return out, new_state
        tally = jax.tree.map(lambda *counts: sum(counts), *(part.tally for part in parts))
        return (out, tally), new_state

    return Applying(init, update)


def _parts(
    step: Step,
    grads: dict[str, Array],
    state: BlockwiseState,
    old: dict[str, Any] | None,
    *,
    how: InPlace,
    in_params: bool,
) -> list[Applied]:
    """`step` on the rest of the leaves at once, then on each other leaf, a chunk at a time."""
    rest = {path: g for path, g in grads.items() if path not in state.leaves}
    parts = [taken(step, rest, state.rest, old and {k: old[k] for k in rest}, how=how)]
    for path, leaf_state in state.leaves.items():
        leaf = Leaf(path, grads[path], None if old is None else old[path])
        parts.append(in_chunks(step, leaf, leaf_state, in_params=in_params, when=how.when))
    return parts


def _flat_like(updates: PyTree, params: PyTree) -> list[Any]:
    return jax.tree.structure(updates).flatten_up_to(params)


def _give_updates(params: PyTree, updates: PyTree) -> tuple[PyTree, PyTree]:
    """Instead of new parameters, what optax wants."""
    del params
    return updates, ()


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

    def stored(_: PyTree, name: str) -> Any:
        return blank(shape, first if name in FIRST else second)

    return map_moments(stored, state)
