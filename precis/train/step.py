"""`make_step`: scale, differentiate under a policy, unscale, clip, update, in one jitted call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from precis.optim import AxisNames, LossScale, reseeded, scale_of, stored_params
from precis.policy import Policy, PolicyRules, read_policy
from precis.quant import is_stored
from precis.train.batch_gradient import batch_gradient, without_state
from precis.train.recipe import Master
from precis.train.scaling import resolve_loss_scale
from precis.train.state import TrainState
from precis.train.trainable import Trainable
from precis.train.trainable import trainable as split_by
from precis.train.update import counting, updated
from precis.train.wrappers import wrapped_optimizer
from precis.tree import named_leaves
from precis.types import PyTree

# A policy's rounding must not be optimized away: by default XLA may compute in more bits than
# the program says, and the policy would look better than it is.
COMPILER_OPTIONS = {"xla_allow_excess_precision": False}


@dataclass(frozen=True)
class Step:
    """One training step under a policy: call it as `step(train_state, batch, key)`.

    The key is for the loss, and for stochastic roles of the policy; each step has its own.

    Attributes:
        policy: The policy, with its rules by path if there are any.
        optimizer: The optax transformation, with loss scaling, clipping and master weights where
            they apply.
        is_scaled: Whether the loss is scaled.
        update: The pure, possibly jitted function behind the call.
        trainable: Which parameters the optimizer sees, by path; None is all of them.
    """

    policy: PolicyRules
    optimizer: optax.GradientTransformation
    is_scaled: bool
    update: Callable[..., tuple[TrainState, dict[str, Array]]]
    trainable: Trainable | None = None

    def init(self, params: PyTree, state: PyTree = None, *, seed: int | Array = 0) -> TrainState:
        """The first state: `params` stored as the policy says, fresh optimizer state.

        Args:
            params: Parameters; a master keeps what storage leaves out.
            state: What the model carries beside them.
            seed: Of stochastic rounding.

        Raises:
            ValueError: A parameter to be trained is a `QTensor`, which p does not store as one.
        """
        given = params if self.trainable is None else self.trainable.split(params).trained
        _check_stored(self.policy, given)
        opt_state = reseeded(self.optimizer.init(given), seed)
        return TrainState(jnp.int32(0), stored_params(self.policy, params), state, opt_state)

    def __call__(
        self, train_state: TrainState, batch: PyTree, key: Array | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """The next state, and metrics: scalars that stay on the device.

        `loss`, `grad_norm`, `finite`, `grad_zero` (share of gradient entries that are exactly
        zero), `update_lost` (share of nonzero updates that left their parameter as it was; with a
        master, the master; with Kahan rounding, what it left out before; of codes rounded by
        chance, what they stood for in float32), with
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
    master: Master = "none",
    accumulate: int = 1,
    weight: Callable[[PyTree], Array] | None = None,
    trainable: Iterable[str] = (),
    moments_keep: Iterable[str] = (),
    moments_min_size: int = 4096,
    axis_name: AxisNames | None = None,
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

    A step takes the gradient, in parts and of the trained parameters only if so asked, then
    unscales, looks whether it is finite, clips, updates, and rounds into storage. What is not
    finite is skipped where the loss is scaled; elsewhere the step is taken, and `finite` in its
    metrics says so.

    On all devices, between which gradients travel in blocks of int8:

    >>> spread = {"axis_name": "data", "jit": False}
    >>> step = make_step(loss, optax.adam(1e-3), "c=bf16,r=int8@block256", **spread)
    >>> mesh, P = jax.sharding.Mesh(jax.devices(), "data"), jax.sharding.PartitionSpec
    >>> specs = {"in_specs": (P(), P("data"), P()), "out_specs": P()}
    >>> update = jax.jit(jax.shard_map(step.update, mesh=mesh, **specs))
    >>> train_state, metrics = update(step.init({"w": jnp.zeros((3, 1))}), batch, None)

    Args:
        loss: `loss(params, batch) -> scalar`; with `has_state` a task's form,
            `loss(params, state, batch, *, key, train) -> (scalar, (state, metrics))`.
        optimizer: Any optax transformation.
        policy: A policy, rules by path, or the text of either.
        has_state: Which form `loss` has.
        loss_scale: `auto` scales dynamically if the policy's gradients can underflow (c, x, gx, gw
            or w, or with `axis_name` r, is a float without scale of 5 exponent bits or fewer);
            `none`, `dynamic`, `dynamic:growth_interval=200,…`, `static:1024`, a library's name
            (`torch`, …), or a `LossScale`.
        clip: Largest global norm of the unscaled gradients.
        master: How parameters whose p is narrower than float32 are updated: `none` rounds them to
            nearest after each step, `f32` keeps a master of them, `stochastic` and `kahan` round
            so that small updates are not lost; see `master_weights`. Where p is scaled (`p=int8`),
            weights of matrix ops stay codes and scales, and it is `f32` or `stochastic`.
        accumulate: How many parts the batch is cut into, see `in_microbatches`.
        weight: What a part weighs, such as its tokens; see there.
        trainable: Patterns of the parameters that are trained, see `precis.train.trainable`; none
            trains all.
        moments_keep: Patterns of parameters whose moments stay in float32, where m or v has blocks.
        moments_min_size: Entries of the smallest parameter whose moments are in blocks.
        axis_name: Axes of a mesh over which batches are spread, for `step.update` inside
            `jax.shard_map`: gradients are averaged over them once, in the policy's r; the floats
            of loss, state and metrics in float32. Each device draws from a key of its own.
        jit: Compile it, with `xla_allow_excess_precision` off. Without, the caller does, and may
            donate the train state, so that it is in memory once; the parameters that `init` was
            given go with it.

    Raises:
        ValueError: Bad text for the policy or the loss scale, another word for `master`, one under
            which parameters in few bits would not learn, a number out of its range, moments that
            cannot be stored so, or `axis_name` with `jit`; when the step is called, stochastic
            roles and no key, or a batch that `accumulate` does not divide.
    """
    if jit and axis_name is not None:
        raise ValueError(
            f"axis_name={axis_name!r} wants jit=False: step.update goes into your shard_map, and "
            "jit around that"
        )
    resolved = read_policy(policy)
    scale = resolve_loss_scale(loss_scale, resolved, is_spread=axis_name is not None)
    optimizer = wrapped_optimizer(
        optimizer,
        resolved,
        scale=scale,
        clip=clip,
        master=master,
        moments_keep=moments_keep,
        moments_min_size=moments_min_size,
    )
    patterns = tuple(trainable)
    parts = split_by(patterns) if patterns else None
    gradient = batch_gradient(
        loss if has_state else without_state(loss),
        resolved,
        accumulate=accumulate,
        weight=weight,
        trainable=parts,
        axis_name=axis_name,
    )
    apply = counting(resolved, rounds=master == "none")

    def update(
        before: TrainState, batch: PyTree, key: Array | None
    ) -> tuple[TrainState, dict[str, Array]]:
        factor = None if scale is None else scale_of(before.opt_state)
        args = (before.params, before.state, batch)
        found = gradient(*args, key=key, step=before.step, scale=factor)
        return updated(optimizer, before, found, apply=apply, parts=parts, scale=factor)

    if jit:
        update = jax.jit(update, compiler_options=COMPILER_OPTIONS)
    return Step(resolved, optimizer, scale is not None, update, parts)


def _check_stored(policy: PolicyRules, params: PyTree) -> None:
    for path, leaf in named_leaves(params).items():
        if is_stored(leaf) and not policy.at(path).stores_codes:
            raise ValueError(
                f"{path} is a QTensor, and the policy has p={policy.at(path).param}: leave it out "
                f"of what is trained, as by trainable=['!{path}'], or store it so, as by p=int8"
            )
