"""How far a loss is scaled, and how that moves from step to step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.types import did_you_mean

# Within these a scale, its double and its reciprocal are normal float32 numbers. XLA flushes
# subnormals to 0 on CPU, and a scale that is 0 or Inf never comes back.
_SMALLEST = 2.0**-126
_LARGEST = 2.0**126

# What each library starts from; all of them double after so many good steps and halve after a
# bad one. Sources: torch.amp.GradScaler, apex.amp.LossScaler, jmp.DynamicLossScale,
# flax.training.dynamic_scale.DynamicScale, keras.optimizers.LossScaleOptimizer.
_PEERS = {
    "torch": {"value": 2.0**16, "min": _SMALLEST, "max": _LARGEST},
    "apex": {"value": 2.0**16, "min": _SMALLEST, "max": 2.0**24},
    "jmp": {"value": 2.0**15, "min": 1.0, "max": _LARGEST},
    "flax": {"value": 2.0**16, "min": _SMALLEST, "max": _LARGEST},
    "keras": {"value": 2.0**15, "min": _SMALLEST, "max": _LARGEST},
}


class LossScale(NamedTuple):
    """The factor on a loss and the schedule that moves it: a pytree of strongly typed scalars.

    No number is static, so that other values compile nothing anew and all of them survive jit
    and a checkpoint. Make one with `dynamic_loss_scale` or `static_loss_scale`, which check them.

    Attributes:
        value: [] float32, the factor, within `min` and `max`.
        growth_factor: [] float32 ≥ 1, applied after `growth_interval` good steps in a row.
        backoff_factor: [] float32 in (0, 1], applied after a step that was not finite.
        growth_interval: [] int32 ≥ 1.
        min: [] float32, the smallest that `value` becomes.
        max: [] float32, the largest that `value` becomes.
        good_steps: [] int32, finite steps in a row since the last growth or backoff.
    """

    value: Array
    growth_factor: Array
    backoff_factor: Array
    growth_interval: Array
    min: Array
    max: Array
    good_steps: Array


def dynamic_loss_scale(
    value: float | Array = 2.0**15,
    *,
    growth_factor: float | Array = 2.0,
    backoff_factor: float | Array = 0.5,
    growth_interval: int | Array = 2000,
    min: float | Array = 2.0**-14,
    max: float | Array = 2.0**24,
) -> LossScale:
    """A scale that grows while gradients are finite and backs off when they are not.

    >>> float(dynamic_loss_scale().value)
    32768.0

    Args:
        value: The first factor. 2^15 is the largest power of two in float16's range.
        growth_factor: At least 1.
        backoff_factor: More than 0, at most 1.
        growth_interval: Good steps in a row before it grows, at least 1.
        min: Lower bound. 2^-14 is float16's smallest normal value.
        max: Upper bound. Beyond 2^24 every float32 gradient that matters is already safe.

    Raises:
        ValueError: A number is out of its range, `min` > `max`, `value` is not between them, or
            one of them is no scalar. Traced numbers cannot be checked.
    """
    numbers = (value, growth_factor, backoff_factor, growth_interval, min, max)
    if not any(isinstance(number, jax.core.Tracer) for number in numbers):
        _check(*(_scalar(number) for number in numbers))
    # An explicit dtype makes them strongly typed: a weak one would change its type under jit.
    return LossScale(
        value=jnp.asarray(value, jnp.float32),
        growth_factor=jnp.asarray(growth_factor, jnp.float32),
        backoff_factor=jnp.asarray(backoff_factor, jnp.float32),
        growth_interval=jnp.asarray(growth_interval, jnp.int32),
        min=jnp.asarray(min, jnp.float32),
        max=jnp.asarray(max, jnp.float32),
        good_steps=jnp.zeros((), jnp.int32),
    )


def static_loss_scale(value: float | Array) -> LossScale:
    """A scale that stays at `value`: growth and backoff are 1, the bounds are `value`.

    Raises:
        ValueError: `value` is no positive float32.
    """
    return dynamic_loss_scale(value, growth_factor=1.0, backoff_factor=1.0, min=value, max=value)


def checked(scale: LossScale) -> LossScale:
    """`scale` with its numbers checked and strongly typed, for one that was made by hand.

    Raises:
        ValueError: As `dynamic_loss_scale`.
    """
    value, growth, backoff, interval, low, high, good_steps = scale
    strong = dynamic_loss_scale(
        value,
        growth_factor=growth,
        backoff_factor=backoff,
        growth_interval=interval,
        min=low,
        max=high,
    )
    return strong._replace(good_steps=jnp.asarray(good_steps, jnp.int32))


def loss_scale_like(name: str) -> LossScale:
    """The settings that `torch`, `apex`, `jmp`, `flax` or `keras` start from.

    Only settings: what is a bug there (growing a step late, a bound lost over jit) is not copied.
    Where a library sets no bound, it is the last that float32 and its reciprocal allow.

    Raises:
        ValueError: No such library is known.
    """
    if name not in _PEERS:
        raise ValueError(f"no loss scale is known for {name!r}{did_you_mean(name, _PEERS)}")
    settings = _PEERS[name]
    return dynamic_loss_scale(settings["value"], min=settings["min"], max=settings["max"])


def scale_loss(loss: Array, scale: Array) -> Array:
    """`loss * scale` in float32 or wider: a float16 loss times 2^15 would be Inf from 2 on.

    Args:
        loss: [] floating point.
        scale: [] float32, from `scale_of`.
    """
    wide = jnp.promote_types(loss.dtype, jnp.float32)
    return loss.astype(wide) * scale.astype(wide)


def adjust(scale: LossScale, finite: Array) -> LossScale:
    """The scale for the next step.

    `finite`: good_steps + 1, and at growth_interval of them value · growth_factor and 0.
    Not `finite`: value · backoff_factor and 0. The value stays within [min, max] and is never
    NaN, whatever comes.

    Args:
        scale: This step's.
        finite: [] bool, whether this step's gradients were.

    Source: torch.amp.GradScaler.update.
    """
    good_steps = scale.good_steps + 1
    # ≥ and not =: a state restored under a shorter interval must not wait forever.
    due = good_steps >= scale.growth_interval
    grown = jnp.where(due, scale.value * scale.growth_factor, scale.value)
    value = jnp.where(finite, grown, scale.value * scale.backoff_factor)
    return scale._replace(
        value=jnp.clip(value, scale.min, scale.max),
        good_steps=jnp.where(finite & ~due, good_steps, 0),
    )


def _scalar(number: float | Array) -> float:
    if np.ndim(number) != 0:
        raise ValueError(
            f"a loss scale is made of scalars, got shape {np.shape(number)}: use jax.vmap to make "
            "several"
        )
    return float(number)


def _check(
    value: float, growth: float, backoff: float, interval: float, low: float, high: float
) -> None:
    # Each is written so that NaN fails it.
    if not 1 <= growth < float("inf"):
        raise ValueError(f"growth_factor must be at least 1, got {growth}")
    if not 0 < backoff <= 1:
        raise ValueError(f"backoff_factor must be more than 0 and at most 1, got {backoff}")
    if not (interval >= 1 and interval.is_integer()):
        raise ValueError(f"growth_interval must be a whole number of at least 1, got {interval}")
    if not low <= high:
        raise ValueError(f"min must not exceed max, got min={low} and max={high}")
    if not (low >= _SMALLEST and high <= _LARGEST):
        raise ValueError(
            f"a loss scale lives between 2^-126 and 2^126, where its reciprocal is normal too, "
            f"got min={low} and max={high}"
        )
    if not low <= value <= high:
        raise ValueError(f"value must lie between min={low} and max={high}, got {value}")
