"""`loss_scaled`: unscale, look, and only then update; a bad step leaves everything as it was."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array, lax

from precis.optim.applied import Applying, InPlace, apply_update, taken_updates
from precis.optim.norm import Norm, check_limit, clipped, gradient_norm, unscale, widened
from precis.optim.scale import LossScale, checked
from precis.optim.scaled_state import LossScaledState, counted, first_state
from precis.types import PyTree


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

    >>> import jax
    >>> from precis.optim import dynamic_loss_scale, scale_loss, scale_of
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
        return first_state(scale, wrapped.init(widened(params)))

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
        after = functools.partial(counted, state, overflowed=overflowed)
        if axis_name is not None:
            norm = _agreed(norm, axis_name)

        def unscaled(grads: PyTree) -> PyTree:
            grads = unscale(grads, factor)
            return grads if clip is None else clipped(grads, norm, clip)

        if in_place is not None:
            when = norm.finite if in_place.when is None else norm.finite & in_place.when
            how = in_place._replace(prepare=unscaled, when=when)
            made = apply_update(inner, updates, state.inner, params, how=how, **extra_args)
            return (made.params, made.tally), after(made.state, norm, in_place.when)

        # Both widen inside the cond, where it fuses with what follows: no float32 copies.
        def step(grads: PyTree, inner_state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
            return wrapped.update(unscaled(grads), inner_state, widened(params), **extra_args)

        out, inner_state = taken_updates(step, updates, state.inner, params, when=norm.finite)
        return out, after(inner_state, norm, None)

    return Applying(init, update)


def _agreed(norm: Norm, axis_name: str | tuple[str, ...]) -> Norm:
    finite = lax.pmin(norm.finite.astype(jnp.int32), axis_name) == 1
    value = jnp.where(finite, lax.pmax(norm.value, axis_name), jnp.inf)
    return Norm(value, finite)
