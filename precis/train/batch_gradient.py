"""The gradient of a step's batch under a policy: cut into parts, and spread over replicas."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax import Array

from precis.optim import AxisNames
from precis.policy import PolicyRules
from precis.train.gradient import value_and_grad
from precis.train.microbatch import in_microbatches
from precis.train.replicas import over_replicas, own_key
from precis.train.trainable import Trainable
from precis.types import PyTree

# ((value, (state, metrics)), grads), as `value_and_grad` gives them of a task's loss.
Found: TypeAlias = tuple[tuple[Array, tuple[PyTree, dict[str, Array]]], PyTree]

# What a step's key is folded with for stochastic roles: no small number, as losses fold.
_ROUNDING = zlib.crc32(b"rounding")


def batch_gradient(
    loss: Callable[..., Any],
    policy: PolicyRules,
    *,
    accumulate: int,
    weight: Callable[[PyTree], Array] | None,
    trainable: Trainable | None,
    axis_name: AxisNames | None,
) -> Callable[..., Found]:
    """The gradient of `loss` over the whole batch of a step.

    Args:
        loss: In a task's form.
        policy: What it is computed under.
        accumulate: As in `make_step`.
        weight: As there.
        trainable: Which parameters to differentiate by; None is all.
        axis_name: As in `make_step`.

    Returns:
        `fn(params, state, batch, *, key, step, scale) -> ((value, (state, metrics)), grads)`, for
        the key and the number of a step, and the factor on its loss or None.
    """

    def gradient(
        params: PyTree, state: PyTree, batch: PyTree, *, key: Array | None, step: Array, **kw: Any
    ) -> Any:
        noise = _rounding_key(policy, key, step)
        part = value_and_grad(
            loss, policy, has_aux=True, state_argnums=1, trainable=trainable, key=noise
        )
        return part(params, state, batch, key=key, **kw)

    in_parts = in_microbatches(gradient, accumulate, weight=weight)
    of_all = over_replicas(in_parts, axis_name, policy.base.reduce)

    def fn(params: PyTree, state: PyTree, batch: PyTree, *, key: Array | None, **kw: Any) -> Found:
        return of_all(params, state, batch, key=own_key(key, axis_name), train=True, **kw)

    return fn


def without_state(loss: Callable[..., Any]) -> Callable[..., Any]:
    """`loss(params, batch)` in a task's form."""

    def task_loss(params: PyTree, state: PyTree, batch: PyTree, *, key: Any, train: bool) -> Any:
        del key, train
        no_metrics: dict[str, Array] = {}
        return loss(params, batch), (state, no_metrics)

    return task_loss


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
