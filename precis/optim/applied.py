"""Updates applied where they are made: one pass over memory, and no copy of them in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precis.optim.norm import widened
from precis.types import PyTree

# From parameters and updates to new parameters and a tally of what happened on the way. It is
# elementwise, and may be called with parts of the trees, even parts of leaves, whose tallies are
# added; a tree's parts have its paths as keys.
Apply = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


class Applying(optax.GradientTransformationExtraArgs):
    """An optax transformation whose `update` takes `apply` as well.

    With it, `update(grads, state, params, apply=fn)` gives `(fn(params, updates), state)`, and the
    updates themselves are never written to memory as a whole. Without it is optax's.
    """


class Applied(NamedTuple):
    """What `apply_update` gives.

    Attributes:
        params: The new parameters.
        state: The optimizer's new state.
        tally: What `apply` counted; zeros if the step was skipped.
    """

    params: PyTree
    state: PyTree
    tally: PyTree


def add_updates(params: PyTree, updates: PyTree) -> tuple[PyTree, PyTree]:
    """`optax.apply_updates`, as an `Apply` that counts nothing."""
    return optax.apply_updates(params, updates), ()


def apply_update(
    optimizer: optax.GradientTransformation,
    grads: PyTree,
    state: PyTree,
    params: PyTree,
    *,
    apply: Apply = add_updates,
    **extra_args: Any,
) -> Applied:
    """`optimizer.update` and `optax.apply_updates` as one step.

    A transformation of this library then adds its updates where it makes them: `loss_scaled`
    within its cond, so that a skipped step returns the parameters bit for bit, `quantized_state`
    block by block. For any other, it is the two calls, with parameters widened to float32 for
    the first.

    >>> applied = apply_update(optax.sgd(0.5), jnp.float32(2.0), (optax.EmptyState(),) * 2, 1.0)
    >>> float(applied.params)
    0.0

    Args:
        optimizer: Any optax transformation.
        grads: What its `update` takes.
        state: Its state.
        params: The parameters.
        apply: `apply(params, updates) -> (params, tally)`, elementwise; `tally` is a tree of
            scalars, which are added up over parts.
        **extra_args: For the optimizer.
    """
    if isinstance(optimizer, Applying):
        made: Any = optimizer.update(grads, state, params, apply=apply, **extra_args)
        (new, tally), state = made
        return Applied(new, state, tally)
    wrapped = optax.with_extra_args_support(optimizer)
    updates, state = wrapped.update(grads, state, widened(params), **extra_args)
    new, tally = apply(params, updates)
    return Applied(new, state, tally)


def no_tally(apply: Apply, params: PyTree) -> PyTree:
    """Zeros of the type of what `apply` counts."""
    shapes = jax.eval_shape(lambda p: apply(p, widened(p))[1], params)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
