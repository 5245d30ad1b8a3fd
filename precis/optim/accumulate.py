"""`accumulate`: one step of an optimizer from the gradients of several micro-batches."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax import Array

from precis.optim.applied import (
    Applied,
    Applying,
    InPlace,
    add_updates,
    apply_update,
    taken,
    taken_updates,
)
from precis.optim.norm import gradient_norm, widened
from precis.optim.scaled_state import LossScaledState
from precis.tree import is_float, map_floats
from precis.types import PyTree, did_you_mean

OnNaN = Literal["drop", "window"]


class AccumulatedState(NamedTuple):
    """What `accumulate` carries from micro-batch to micro-batch; a pytree.

    Attributes:
        inner: State of the inner transformation, after the windows that were applied only.
        total: The sum of this window's gradients, each times its weight, in float32 or wider.
        weight: [] float32, the sum of their weights.
        seen: [] int32, micro-batches of this window so far, dropped ones included.
        spoiled: [] bool, whether one of them was not finite.
        windows: [] int32, windows that reached the inner transformation.
        lost: [] int32, windows that did not.
        dropped: [] int32, micro-batches that were not finite, so far.
        last_finite: [] bool, whether the last micro-batch was finite; True before the first.
    """

    inner: PyTree
    total: PyTree
    weight: Array
    seen: Array
    spoiled: Array
    windows: Array
    lost: Array
    dropped: Array
    last_finite: Array


def accumulate(inner: optax.GradientTransformation, k: int, *, on_nan: OnNaN = "drop") -> Applying:
    """`inner`, once for every `k` micro-batches, with the mean of their gradients.

    The mean is Σ weight · g / Σ weight, summed in float32 (float64 stays so) and handed over as it
    is. `weight` is an argument of `update`, [] floating, such as how many tokens a micro-batch has;
    1 by default. `inner` runs under `lax.cond`, at the end of a window only. In between, updates
    are -0.0, so that `p + u` is p, and `apply_update` gives back parameters bit for bit.

    A micro-batch is not finite if a gradient or its weight is not, or its weight is negative. It
    never gets into the sum, and

    * `drop` leaves it out: the window is the mean of the others;
    * `window` leaves the whole window out.

    A window that is left out, or in which nothing had weight, leaves parameters and the inner state
    bit for bit. Around `loss_scaled`, all gradients of a window share one scale, which moves at its
    end: `scale_of` gives it at any depth. There the window is offered to `inner` all the same, as
    NaN, to be skipped and counted; and after one with a dropped micro-batch, whose step is taken,
    the scale backs off, since it may be the scale that was too large. `keep_if_skipped` goes by the
    last micro-batch. Within `loss_scaled`, each micro-batch is judged and unscaled by itself, and a
    skipped one does not count towards `k`.

    >>> optimizer = accumulate(optax.sgd(1.0), 2)
    >>> params = jnp.float32(0)
    >>> state = optimizer.init(params)
    >>> for grad, tokens in [(1.0, 30.0), (2.0, 10.0)]:
    ...     params, state, _ = apply_update(
    ...         optimizer, jnp.float32(grad), state, params, weight=jnp.float32(tokens)
    ...     )
    >>> float(params)
    -1.25

    Args:
        inner: Any optax transformation.
        k: Micro-batches in a window.
        on_nan: `drop` or `window`.

    Raises:
        ValueError: `k` is no whole number of at least 1, or another word for `on_nan`.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k is how many micro-batches make a window, at least 1, got {k!r}")
    if on_nan not in get_args(OnNaN):
        raise ValueError(f"no on_nan is called {on_nan!r}{did_you_mean(on_nan, get_args(OnNaN))}")
    wrapped = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> AccumulatedState:
        wide = widened(params)
        return _first(wrapped.init(wide), jax.tree.map(jnp.zeros_like, wide))

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        in_place: InPlace | None = None,
        weight: Array | float = 1.0,
        **extra_args: Any,
    ) -> tuple[PyTree, AccumulatedState]:
        how = in_place or InPlace(add_updates)
        added = _added(state, how.prepared(updates), jnp.asarray(weight, jnp.float32))
        is_full = added.seen >= k
        is_usable = added.weight > 0
        if on_nan == "window":
            is_usable &= ~added.spoiled
        # A loss scale must hear of every window; nobody else should see one without gradients.
        due = is_full if _is_scaled(state.inner) else is_full & is_usable
        if how.when is not None:
            due &= how.when
        mean = functools.partial(_mean, weight=jnp.where(is_usable, added.weight, jnp.nan))
        extra_args |= {"overflowed": added.spoiled}

        if in_place is None:

            def step(total: PyTree, inner_state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
                return wrapped.update(mean(total), inner_state, widened(params), **extra_args)

            out, inner_state = taken_updates(step, added.total, state.inner, params, when=due)
            return out, _closed(added, inner_state, is_full, is_usable)

        def apply(total: PyTree, inner_state: PyTree, params: PyTree) -> Applied:
            at_once = how._replace(prepare=None, when=None)
            return apply_update(inner, mean(total), inner_state, params, how=at_once, **extra_args)

        made = taken(apply, added.total, state.inner, params, how=how._replace(when=due))
        after = _closed(added, made.state, is_full, is_usable)
        if how.when is not None:
            after = _if(how.when, after, state)._replace(inner=made.state)
        return (made.params, made.tally), after

    return Applying(init, update)


def _first(inner: PyTree, total: PyTree) -> AccumulatedState:
    """The state before the first micro-batch."""
    return AccumulatedState(
        inner=inner,
        total=total,
        weight=jnp.zeros((), jnp.float32),
        seen=jnp.zeros((), jnp.int32),
        spoiled=jnp.zeros((), jnp.bool_),
        windows=jnp.zeros((), jnp.int32),
        lost=jnp.zeros((), jnp.int32),
        dropped=jnp.zeros((), jnp.int32),
        last_finite=jnp.ones((), jnp.bool_),
    )


def _added(state: AccumulatedState, grads: PyTree, weight: Array) -> AccumulatedState:
    """`state` with one more micro-batch."""
    finite = gradient_norm(grads).finite & jnp.isfinite(weight) & (weight >= 0)

    def add(total: Array, grad: Array) -> Array:
        if not is_float(total):
            return total
        return jnp.where(finite, total + weight.astype(total.dtype) * grad, total)

    return state._replace(
        total=jax.tree.map(add, state.total, widened(grads)),
        weight=state.weight + jnp.where(finite, weight, 0),
        seen=state.seen + 1,
        spoiled=state.spoiled | ~finite,
        dropped=state.dropped + (~finite).astype(jnp.int32),
        last_finite=finite,
    )


def _closed(
    state: AccumulatedState, inner: PyTree, is_full: Array, is_usable: Array
) -> AccumulatedState:
    """`state` after the inner step, begun anew if the window was full."""
    fresh = state._replace(
        total=jax.tree.map(jnp.zeros_like, state.total),
        weight=jnp.zeros_like(state.weight),
        seen=jnp.zeros_like(state.seen),
        spoiled=jnp.zeros_like(state.spoiled),
        windows=state.windows + is_usable.astype(jnp.int32),
        lost=state.lost + (~is_usable).astype(jnp.int32),
    )
    return _if(is_full, fresh, state)._replace(inner=inner)


def _if(condition: Array, new: AccumulatedState, old: AccumulatedState) -> AccumulatedState:
    """`new` or `old`, but for the inner state."""
    new, old = new._replace(inner=()), old._replace(inner=())
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _mean(total: PyTree, weight: Array) -> PyTree:
    return map_floats(lambda x: x / weight.astype(x.dtype), total)


def _is_scaled(state: PyTree) -> bool:
    is_scaled = lambda node: isinstance(node, LossScaledState)  # noqa: E731
    return any(map(is_scaled, jax.tree.leaves(state, is_leaf=is_scaled)))
