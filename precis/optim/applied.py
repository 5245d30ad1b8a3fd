"""Updates applied where they are made: one pass over memory, and no copy of them in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from precis.optim.norm import widened
from precis.optim.replicas import varying
from precis.types import PyTree
from precis.walk.equations import varying_axes

# From parameters and updates to new parameters and a tally of what happened on the way. It is
# elementwise, and may be called with parts of the trees, even parts of leaves, whose tallies are
# added; a tree's parts have its paths as keys. Instead of a parameter it may get a small tree of
# what is kept of it, see `InPlace.seen`.
Apply = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


class InPlace(NamedTuple):
    """How a step is done where its parts are: what comes before the update, after it, and when.

    Attributes:
        apply: From parameters and updates to new parameters.
        prepare: Elementwise, from gradients to what the optimizer gets; None leaves them.
        when: [] bool, whether the step is taken; where not, parameters and state come back bit
            for bit, and the tally is 0. None is always.
        seen: From what is kept of the parameters to what the optimizer is shown of them; None
            widens them to float32. With it, each parameter may be a tree: of arrays in its shape,
            which are cut into chunks as it is, and of scalars, which pass from chunk to chunk.
    """

    apply: Apply
    prepare: Callable[[PyTree], PyTree] | None = None
    when: Array | None = None
    seen: Callable[[PyTree], PyTree] | None = None

    def prepared(self, grads: PyTree) -> PyTree:
        """What the optimizer gets for `grads`."""
        return grads if self.prepare is None else self.prepare(grads)

    def shown(self, params: PyTree) -> PyTree:
        """What the optimizer is shown of `params`."""
        return widened(params) if self.seen is None else self.seen(params)


class Applying(optax.GradientTransformationExtraArgs):
    """An optax transformation whose `update` can apply its updates as well.

    `update(grads, state, params, in_place=how)` gives `((new_params, tally), state)`, and the
    updates are never written to memory as a whole. Without `in_place` it is optax's.
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
    how: InPlace | None = None,
    **extra_args: Any,
) -> Applied:
    """`optimizer.update` and `optax.apply_updates` as one step.

    A transformation of this library then adds its updates where it makes them: `loss_scaled`
    within its cond, so that a skipped step returns the parameters bit for bit, `quantized_state`
    block by block. For any other, it is the two calls, with parameters widened to float32 for
    the first.

    >>> sgd, params = optax.sgd(0.5), jnp.float32(1)
    >>> float(apply_update(sgd, jnp.float32(2), sgd.init(params), params).params)
    0.0

    Args:
        optimizer: Any optax transformation.
        grads: What its `update` takes.
        state: Its state.
        params: The parameters.
        how: By default `InPlace(add_updates)`.
        **extra_args: For the optimizer.
    """
    how = how or InPlace(add_updates)
    if isinstance(optimizer, Applying):
        made: Any = optimizer.update(grads, state, params, in_place=how, **extra_args)
        (new, tally), state = made
        return Applied(new, state, tally)
    wrapped = optax.with_extra_args_support(optimizer)

    def step(grads: PyTree, state: PyTree, params: PyTree) -> Applied:
        shown = how.shown(params)
        updates, state = wrapped.update(how.prepared(grads), state, shown, **extra_args)
        new, tally = how.apply(params, updates)
        return Applied(new, state, tally)

    return taken(step, grads, state, params, how=how)


def taken(
    step: Callable[[PyTree, PyTree, PyTree], Applied],
    grads: PyTree,
    state: PyTree,
    params: PyTree,
    *,
    how: InPlace,
) -> Applied:
    """`step(grads, state, params)`, under a cond if `how` says when."""
    if how.when is None:
        return step(grads, state, params)

    def skip(grads: PyTree, state: PyTree, params: PyTree) -> Applied:
        shapes = jax.eval_shape(lambda *args: step(*args).tally, grads, state, params)
        return Applied(params, state, zeros_like(shapes))

    return lax.cond(how.when, step, skip, grads, state, params)


def taken_updates(
    step: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    grads: PyTree,
    state: PyTree,
    params: PyTree,
    *,
    when: Array,
) -> tuple[PyTree, PyTree]:
    """`step(grads, state, params)`, updates and state, or where not `when`, -0.0 and `state`."""

    def skip(grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        # Never computed, but it gives -0.0 the exact type of an update, sharding included.
        unused, _ = step(grads, state, params)
        return jax.tree.map(lambda u: jnp.where(False, u, -jnp.zeros_like(u)), unused), state

    return lax.cond(when, step, skip, grads, state, params)


def zeros_like(shapes: PyTree) -> PyTree:
    """Zeros of the given shapes and dtypes, which vary between replicas where those do."""

    def zeros(x: Any) -> Array:
        axes = tuple(varying_axes(jax.typeof(x)))
        made = jnp.zeros(x.shape, x.dtype)
        return varying(made, axes) if axes else made

    return jax.tree.map(zeros, shapes)
