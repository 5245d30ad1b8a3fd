"""An optimizer with what a policy and a recipe put around it: storage, loss scaling, clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import optax

from precis.optim import (
    LossScale,
    clipped_first,
    loss_scaled,
    master_weights,
    stored_moments,
)
from precis.policy import PolicyRules
from precis.train.recipe import Master, check_master
from precis.types import did_you_mean


def wrapped_optimizer(
    inner: optax.GradientTransformation,
    policy: PolicyRules,
    *,
    scale: LossScale | None,
    clip: float | None,
    master: Master,
    moments_keep: Iterable[str],
    moments_min_size: int,
) -> optax.GradientTransformation:
    """`inner`, its moments in m and v, its parameters in p; scaled and clipped before all that.

    Args:
        inner: Any optax transformation.
        policy: Says what m, v and p are.
        scale: The first loss scale; None for no scaling.
        clip: As in `make_step`.
        master: As there.
        moments_keep: As there.
        moments_min_size: As there.

    Raises:
        ValueError: There is no such `master`, or parameters stored so could not learn; a number out
            of its range; or as `stored_moments`.
    """
    m, v = policy.base.m, policy.base.v
    inner = stored_moments(inner, m, v, min_size=moments_min_size, keep=moments_keep)
    wrapped = _limited(_stored(inner, policy, master), scale, clip)
    check_master(policy, master)
    return wrapped


def _stored(
    inner: optax.GradientTransformation, policy: PolicyRules, master: Master
) -> optax.GradientTransformation:
    """`inner`, with parameters stored as `master` says."""
    match master:
        case "none":
            return inner
        case "f32":
            return master_weights(inner, policy)
        case "stochastic" | "kahan":
            return master_weights(inner, policy, master)
    raise ValueError(f"no master is called {master!r}{did_you_mean(master, get_args(Master))}")


def _limited(
    inner: optax.GradientTransformation, scale: LossScale | None, clip: float | None
) -> optax.GradientTransformation:
    """`inner`, with loss scaling and clipping where they are asked for."""
    if scale is not None:
        return loss_scaled(inner, scale, clip=clip)
    return inner if clip is None else clipped_first(inner, clip)
