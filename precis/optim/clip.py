"""`clipped_first`: an optimizer whose gradients are clipped by their global norm."""

from __future__ import annotations

from typing import Any

import optax

from precis.optim.applied import Applying, InPlace, apply_update
from precis.optim.norm import check_limit, clipped, gradient_norm, widened
from precis.types import PyTree


def clipped_first(inner: optax.GradientTransformation, limit: float) -> Applying:
    """`inner`, given gradients of global norm at most `limit`, in float32 or wider.

    `optax.chain(clip_by_norm(limit), inner)` does the same, but cannot apply its updates where it
    makes them. Its state is `inner`'s.

    Args:
        inner: Any optax transformation.
        limit: The largest global norm.

    Raises:
        ValueError: `limit` is not positive.
    """
    check_limit(limit)
    wrapped = optax.with_extra_args_support(inner)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        in_place: InPlace | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, PyTree]:
        if in_place is not None:
            updates = in_place.prepared(updates)
        norm = gradient_norm(updates)

        def clip(grads: PyTree) -> PyTree:
            return clipped(widened(grads), norm, limit)

        if in_place is None:
            return wrapped.update(clip(updates), state, params, **extra_args)
        how = in_place._replace(prepare=clip)
        made = apply_update(inner, updates, state, params, how=how, **extra_args)
        return (made.params, made.tally), made.state

    return Applying(wrapped.init, update)
