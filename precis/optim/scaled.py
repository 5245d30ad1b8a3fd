"""`loss_scaled`: unscale, look, and only then update; a bad step leaves everything as it was."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from precis.optim.applied import Applying, InPlace, apply_update, taken_updates
from precis.optim.norm import Norm, check_limit, clipped, gradient_norm, unscale, widened
from precis.optim.scale import LossScale, adjust, checked
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


def loss_scaled(
    inner: optax.GradientTransformation,
    scale: LossScale,
    *,
    clip: float | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Applying:
    """`inner`, fed with the gradients of a scaled loss, and only where all of them are finite.

    A step is `grads / scale` in float32 (float64 stays so), by the very scale that the loss was
    multiplied with; then clipping; then `inner` under `lax.cond`. `inner` sees float32 gradients
    and parameters also where they are stored in 16 bits, and its state starts from float32.

    A step that is not finite is skipped, however many come in a row: the inner state keeps every
    bit, and the updates are -0.0, so that `p + u` is p, for p = -0.0 too. (Where the backend
    flushes subnormals, as XLA does on CPU, the addition itself flushes those of p; `apply_update`
    and `keep_if_skipped` keep even these.) The loss scale follows `adjust`, and a scale that can
    go no lower raises the flag `stuck`.

    `static_loss_scale(1.0)` gives the skipping alone. To look without skipping, so that a run
    which diverges is seen to diverge, use `gradient_norm`, and `clip_by_norm` to clip.

    >>> from precis.optim import dynamic_loss_scale, scale_loss
    >>> optimizer = loss_scaled(optax.sgd(0.5), dynamic_loss_scale())
    >>> params = jnp.float32(1.0)
    >>> state = optimizer.init(params)
    >>> loss = lambda p, s: scale_loss(p.astype(jnp.float16), s)
    >>> updates, state = optimizer.update(jax.grad(loss)(params, scale_of(state)), state, params)
    >>> float(optax.apply_updates(params, updates))
    0.5

    Args:
        inner: Any optax transformation.
        scale: The first loss scale.
        clip: Largest global norm of the unscaled gradients; None leaves them.
        axis_name: Mapped axes whose replicas hold the same parameters: they skip together, and
            clip by the largest norm among them. Average the gradients before. Where they hold
            shards, they skip together too, but leave `clip` out: no shard knows the whole norm.

    Returns:
        A transformation with state `LossScaledState`. Its `update` takes `overflowed`, [] bool, if
        finite gradients stand for some that were not, as `accumulate` has them: the step is taken
        and the scale backs off. Further arguments go to `inner`.

    Raises:
        ValueError: `clip` is not positive, or a number of `scale` is out of its range.
        TypeError: `scale` is no `LossScale`.
    """
    if not isinstance(scale, LossScale):
        raise TypeError(f"a LossScale is wanted, as from dynamic_loss_scale(), got {scale!r}")
    scale = checked(scale)
    if clip is not None:
        check_limit(clip)
    wrapped = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> LossScaledState:
        # No two leaves share a buffer, nor with `scale`: a caller may donate all of the state.
        return LossScaledState(
            scale=jax.tree.map(jnp.copy, scale),
            inner=wrapped.init(widened(params)),
            applied=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            consecutive_skips=jnp.zeros((), jnp.int32),
            last_finite=jnp.ones((), jnp.bool_),
            stuck=jnp.zeros((), jnp.bool_),
            grad_norm=jnp.zeros((), jnp.float32),
        )

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        in_place: InPlace | None = None,
        overflowed: Array | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, LossScaledState]:
        if in_place is not None:
            updates = in_place.prepared(updates)
        factor = state.scale.value
        norm = gradient_norm(updates, scale=factor)
        counted = functools.partial(_counted, state, overflowed=overflowed)
        if axis_name is not None:
            norm = _agreed(norm, axis_name)

        def unscaled(grads: PyTree) -> PyTree:
            grads = unscale(grads, factor)
            return grads if clip is None else clipped(grads, norm, clip)

        if in_place is not None:
            when = norm.finite if in_place.when is None else norm.finite & in_place.when
            how = in_place._replace(prepare=unscaled, when=when)
            made = apply_update(inner, updates, state.inner, params, how=how, **extra_args)
            return (made.params, made.tally), counted(made.state, norm, in_place.when)

        # Both widen inside the cond, where it fuses with what follows: no float32 copies.
        def step(grads: PyTree, inner_state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
            return wrapped.update(unscaled(grads), inner_state, widened(params), **extra_args)

        out, inner_state = taken_updates(step, updates, state.inner, params, when=norm.finite)
        return out, counted(inner_state, norm, None)

    return Applying(init, update)


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


def _agreed(norm: Norm, axis_name: str | tuple[str, ...]) -> Norm:
    finite = lax.pmin(norm.finite.astype(jnp.int32), axis_name) == 1
    value = jnp.where(finite, lax.pmax(norm.value, axis_name), jnp.inf)
    return Norm(value, finite)


def _counted(
    state: LossScaledState,
    inner: PyTree,
    norm: Norm,
    when: Array | None,
    *,
    overflowed: Array | None,
) -> LossScaledState:
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
