"""From a batch's gradient to the next train state, and what is measured on the way."""

from __future__ import annotations

import optax
from jax import Array

from precis.optim import (
    Apply,
    InPlace,
    Norm,
    apply_update,
    gradient_norm,
    keep_if_skipped,
    state_of,
)
from precis.policy import PolicyRules, cast_to_param
from precis.train.batch_gradient import Found
from precis.train.lost import Lost, lost_updates, share_of_zeros
from precis.train.state import TrainState
from precis.train.trainable import Trainable
from precis.types import PyTree


def counting(policy: PolicyRules, *, rounds: bool) -> Apply:
    """Adds updates to parameters, and counts those that were lost.

    Args:
        policy: Says what parameters are stored in.
        rounds: Whether they are rounded into it here, to nearest; else the optimizer does.
    """

    def apply(params: PyTree, updates: PyTree) -> tuple[PyTree, Lost]:
        new = optax.apply_updates(params, updates)
        if rounds:
            new = cast_to_param(policy, new)
        return new, lost_updates(updates, params, new)

    return apply


def updated(
    optimizer: optax.GradientTransformation,
    before: TrainState,
    found: Found,
    *,
    apply: Apply,
    parts: Trainable | None,
    scale: Array | None,
) -> tuple[TrainState, dict[str, Array]]:
    """The train state after a step, and the step's metrics.

    Args:
        optimizer: Its state is in `before`.
        before: The train state.
        found: What the loss gave, and its gradient.
        apply: Adds updates to parameters.
        parts: Which parameters are trained; None is all.
        scale: [] float32, what the loss was scaled by; None if it was not.
    """
    (value, (state, metrics)), grads = found
    trained = before.params if parts is None else parts.split(before.params).trained
    how = InPlace(apply)
    new, opt_state, lost = apply_update(optimizer, grads, before.opt_state, trained, how=how)
    params = new if parts is None else parts.merge(before.params, new)
    measured: dict[str, Array] = {}
    if scale is None:
        norm = gradient_norm(grads)
    else:
        scaled = state_of(opt_state)
        norm = Norm(scaled.grad_norm, scaled.last_finite)
        measured = {"loss_scale": scale, "skipped": scaled.skipped}
        state = keep_if_skipped(opt_state, state, before.state)
    measured |= {"loss": value, "grad_norm": norm.value, "finite": norm.finite}
    measured |= {"grad_zero": share_of_zeros(grads), "update_lost": lost.share}
    return TrainState(before.step + 1, params, state, opt_state), measured | metrics
