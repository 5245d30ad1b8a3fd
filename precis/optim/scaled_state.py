"""What loss scaling carries from step to step: how it moves, and how it is read."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from precis.optim.norm import Norm
from precis.optim.scale import LossScale, adjust
from precis.tree import path_str
from precis.types import PyTree


class LossScaledState(NamedTuple):
    """What `loss_scaled` carries from step to step; a pytree, checkpointed as it is.

    Attributes:
        scale: The loss scale for the next step.
        inner: State of the inner transformation, after the applied steps only.
        applied: [] int32, steps that reached the inner transformation.
        skipped: [] int32, steps that did not, being not finite.
        consecutive_skips: [] int32, skips since the last applied step.
        last_finite: [] bool, whether the last step was applied; True before the first.
        stuck: [] bool, whether the last two steps or more were skipped and backing off no longer
            lowers the scale: waiting will not help. The next finite step clears it.
        grad_norm: [] float32, global norm of the last step's gradients, unscaled and before
            clipping; Inf exactly if it was skipped. 0 before the first.
    """

    scale: LossScale
    inner: PyTree
    applied: Array
    skipped: Array
    consecutive_skips: Array
    last_finite: Array
    stuck: Array
    grad_norm: Array


def first_state(scale: LossScale, inner: PyTree) -> LossScaledState:
    """The state before the first step."""
    # No two leaves share a buffer, nor with `scale`: a caller may donate all of the state.
    return LossScaledState(
        scale=jax.tree.map(jnp.copy, scale),
        inner=inner,
        applied=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        consecutive_skips=jnp.zeros((), jnp.int32),
        last_finite=jnp.ones((), jnp.bool_),
        stuck=jnp.zeros((), jnp.bool_),
        grad_norm=jnp.zeros((), jnp.float32),
    )


def counted(
    state: LossScaledState,
    inner: PyTree,
    norm: Norm,
    when: Array | None,
    *,
    overflowed: Array | None,
) -> LossScaledState:
    """The state after a step.

    Args:
        state: Before it.
        inner: The inner state after it.
        norm: Of its gradients.
        when: [] bool, whether it counts at all; None is always.
        overflowed: As in `loss_scaled`.
    """
    fits = norm.finite if overflowed is None else norm.finite & ~overflowed
    scale = adjust(state.scale, fits)
    skips = jnp.where(norm.finite, 0, state.consecutive_skips + 1)
    bad = (~norm.finite).astype(jnp.int32)
    after = LossScaledState(
        scale=scale,
        inner=inner,
        applied=state.applied + (1 - bad),
        skipped=state.skipped + bad,
        consecutive_skips=skips,
        last_finite=norm.finite,
        # One bad batch at the lowest scale is no pattern; two in a row are.
        stuck=(skips >= 2) & (scale.value == state.scale.value),
        grad_norm=norm.value.astype(jnp.float32),
    )
    if when is None:
        return after
    small, before = after._replace(inner=()), state._replace(inner=())
    kept = jax.tree.map(lambda new, old: jnp.where(when, new, old), small, before)
    return kept._replace(inner=inner)


def state_of(opt_state: PyTree) -> LossScaledState:
    """The one `LossScaledState` within an optimizer's state, at any depth.

    Raises:
        ValueError: There is none, or more than one.
    """
    is_scaled = lambda node: isinstance(node, LossScaledState)  # noqa: E731
    found = [node for node in jax.tree.leaves(opt_state, is_leaf=is_scaled) if is_scaled(node)]
    if len(found) != 1:
        raise ValueError(
            f"an optimizer state with one LossScaledState is wanted, got {len(found)} of them: "
            "wrap the optimizer in loss_scaled once, outermost"
        )
    return found[0]


def scale_of(opt_state: PyTree) -> Array:
    """[] float32, the scale to multiply the next loss with. Read it before taking gradients.

    Raises:
        ValueError: As `state_of`.
    """
    return state_of(opt_state).scale.value


def keep_if_skipped(opt_state: PyTree, new: PyTree, old: PyTree) -> PyTree:
    """`new`, or bit for bit `old` if the last step was skipped.

    For what a step changes beside the parameters: BatchNorm statistics of a step that was not
    finite are not finite either. Around `loss_scaled`, `accumulate` says whether the last
    micro-batch was finite, at the end of a window or not.

    Args:
        opt_state: The optimizer's state after the step.
        new: A tree of arrays, after the step.
        old: The same tree before it.

    Raises:
        TypeError: A leaf has changed its dtype, and neither can stand for the other.
        ValueError: As `state_of`.
    """
    finite = _judge(opt_state).last_finite

    def keep(path: tuple[Any, ...], after: Any, before: Any) -> Array:
        after, before = jnp.asarray(after), jnp.asarray(before)
        if after.dtype != before.dtype:
            raise TypeError(
                f"{path_str(path) or 'the array'} was {before.dtype} and became {after.dtype}: "
                "cast it back before keep_if_skipped"
            )
        return jnp.where(finite, after, before)

    return jax.tree_util.tree_map_with_path(keep, new, old)


def _judge(opt_state: PyTree) -> Any:
    """The outermost state that says whether the last step was finite."""
    says = lambda node: hasattr(node, "last_finite")  # noqa: E731
    found = [node for node in jax.tree.leaves(opt_state, is_leaf=says) if says(node)]
    return found[0] if len(found) == 1 else state_of(opt_state)
