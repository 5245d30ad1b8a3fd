"""What a task's loss would run under a policy."""

from __future__ import annotations

import jax

from precis.optim import stored_params
from precis.policy import Policy, PolicyRules, read_policy
from precis.train.fit import init_key
from precis.train.task import Task
from precis.walk import Audit, audit


def audit_task(
    task: Task, policy: PolicyRules | Policy | str, *, seed: int = 0, compiled: bool = False
) -> Audit:
    """The audit of `task.loss` in training, on its first batch; nothing is trained.

    Parameters that the policy stores as codes are codes here; with `compiled`, their gradients are
    left out.

    Args:
        task: The task.
        policy: A policy, rules by path, or the text of either.
        seed: Of its batch.
        compiled: Compile the gradient too, and say what it really ran, as in `audit`.

    Raises:
        ValueError: A bad policy, or a rule that matches nothing in the task's model.
    """
    key = init_key(seed)
    params, state = jax.eval_shape(task.init, key)
    if read_policy(policy).stores_codes:
        params = jax.eval_shape(lambda params: stored_params(policy, params), params)
    batch = task.batch(seed, 0)
    return audit(
        task.loss,
        params,
        state,
        batch,
        policy=policy,
        state_argnums=1,
        compiled=compiled,
        key=key,
        train=True,
    )
