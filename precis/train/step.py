"""`make_step`: scale, differentiate under a policy, unscale, clip, update, in one jitted call."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from precis.optim import (
    InPlace,
    LossScale,
    Norm,
    apply_update,
    clip_by_norm,
    gradient_norm,
    keep_if_skipped,
    loss_scaled,
    scale_of,
    state_of,
    stored_moments,
)
from precis.policy import Policy, PolicyRules, cast_to_param, read_policy
from precis.train.gradient import value_and_grad
from precis.train.lost import Lost, lost_updates, share_of_zeros
from precis.train.scaling import resolve_loss_scale
from precis.train.state import TrainState
from precis.types import PyTree

# A policy's rounding must not be optimized away: by default XLA may compute in more bits than
# the program says, and the policy would look better than it is.
COMPILER_OPTIONS = {"xla_allow_excess_precision": False}

# What a step's key is folded with for stochastic roles: no small number, as losses fold.
_ROUNDING = zlib.crc32(b"rounding")


@dataclass(frozen=True)
class Step:
    """One training step under a policy: call it as `step(train_state, batch, key)`.

    The key is for the loss, and for stochastic roles of the policy; each step has its own.

    Attributes:
        policy: The policy, with its rules by path if there are any.
        optimizer: The optax transformation, with loss scaling and clipping where they apply.
        is_scaled: Whether the loss is scaled.
        update: The pure, possibly jitted function behind the call.
    """

    policy: PolicyRules
    optimizer: optax.GradientTransformation
    is_scaled: bool
    update: Callable[..., tuple[TrainState, dict[str, Array]]]

    def init(self, params: PyTree, state: PyTree = None) -> TrainState:
        """The first state: `params` cast to the policy's param format, fresh optimizer state."""
        params = cast_to_param(self.policy, params)
        return TrainState(jnp.int32(0), params, state, self.optimizer.init(params))

    def __call__(
        self, train_state: TrainState, batch: PyTree, key: Array | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """The next state, and metrics: scalars that stay on the device.

        `loss`, `grad_norm`, `finite`, `grad_zero` (share of gradient entries that are exactly
        zero), `update_lost` (share of nonzero updates that left their parameter as it was), with
        loss scaling `loss_scale` and `skipped` (so far), and what the loss function reports.
        """
        return self.update(train_state, batch, key)


def make_step(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    policy: PolicyRules | Policy | str,
    *,
    has_state: bool = False,
    loss_scale: LossScale | str = "auto",
    clip: float | None = None,
    jit: bool = True,
) -> Step:
    """A training step for `loss` under `policy`.

    >>> import jax.numpy as jnp, optax
    >>> def loss(params, batch):
    ...     return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
    >>> step = make_step(loss, optax.adam(1e-3), "mixed_f16")
    >>> train_state = step.init({"w": jnp.zeros((3, 1))})
    >>> batch = {"x": jnp.ones((8, 3)), "y": jnp.ones((8, 1))}
    >>> train_state, metrics = step(train_state, batch)
    >>> float(metrics["loss"]), float(metrics["loss_scale"])
    (1.0, 32768.0)

    Args:
        loss: `loss(params, batch) -> scalar`; with `has_state` a task's form,
            `loss(params, state, batch, *, key, train) -> (scalar, (state, metrics))`.
        optimizer: Any optax transformation.
        policy: A policy, rules by path, or the text of either.
        has_state: Which form `loss` has.
        loss_scale: `auto` scales dynamically if the policy's gradients can underflow (c, x or g
            has 5 exponent bits); `none`, `dynamic`, `static:1024`, or a `LossScale`.
        clip: Largest global norm of the unscaled gradients.
        jit: Compile it, with excess precision off. Without, the caller does.

    Raises:
        ValueError: Bad text for the policy or the loss scale; when the step is called, a policy
            with stochastic roles and no key.
    """
    resolved = read_policy(policy)
    scale = resolve_loss_scale(loss_scale, resolved)
    optimizer = stored_moments(optimizer, resolved.base.m, resolved.base.v)
    if scale is not None:
        optimizer = loss_scaled(optimizer, scale, clip=clip)
    elif clip is not None:
        optimizer = optax.chain(clip_by_norm(clip), optimizer)
    task_loss = loss if has_state else _without_state(loss)

    def apply(params: PyTree, updates: PyTree) -> tuple[PyTree, Lost]:
        new = cast_to_param(resolved, optax.apply_updates(params, updates))
        return new, lost_updates(updates, params, new)

    def update(
        before: TrainState, batch: PyTree, key: Array | None
    ) -> tuple[TrainState, dict[str, Array]]:
        factor = None if scale is None else scale_of(before.opt_state)
        noise = _rounding_key(resolved, key, before.step)
        gradient = value_and_grad(task_loss, resolved, has_aux=True, state_argnums=1, key=noise)
        (value, (state, metrics)), grads = gradient(
            before.params, before.state, batch, key=key, train=True, scale=factor
        )
        params, opt_state, lost = apply_update(
            optimizer, grads, before.opt_state, before.params, how=InPlace(apply)
        )
        measured: dict[str, Array] = {}
        if factor is None:
            norm = gradient_norm(grads)
        else:
            scaled = state_of(opt_state)
            norm = Norm(scaled.grad_norm, scaled.last_finite)
            measured = {"loss_scale": factor, "skipped": scaled.skipped}
            state = keep_if_skipped(opt_state, state, before.state)
        measured |= {"loss": value, "grad_norm": norm.value, "finite": norm.finite}
        measured |= {"grad_zero": share_of_zeros(grads), "update_lost": lost.share}
        after = TrainState(before.step + 1, params, state, opt_state)
        return after, measured | metrics

    if jit:
        update = jax.jit(update, compiler_options=COMPILER_OPTIONS)
    return Step(resolved, optimizer, scale is not None, update)


def _rounding_key(policies: PolicyRules, key: Array | None, step: Array) -> Array | None:
    """The key of a step's stochastic roles, apart from all that the loss draws from `key`."""
    if not policies.is_stochastic:
        return None
    if key is None:
        raise ValueError(
            f"{policies} rounds by chance, and each step wants a random key: "
            "step(train_state, batch, key)"
        )
    # With the step's number, even a key that is the same in all steps gives new bits in each.
    return jax.random.fold_in(jax.random.fold_in(key, _ROUNDING), step)


def _without_state(loss: Callable[..., Any]) -> Callable[..., Any]:
    def task_loss(params: PyTree, state: PyTree, batch: PyTree, *, key: Any, train: bool) -> Any:
        del key, train
        no_metrics: dict[str, Array] = {}
        return loss(params, batch), (state, no_metrics)

    return task_loss
