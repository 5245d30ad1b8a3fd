"""jmp's loss scales, on the schedule of `precis.optim`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from precis.compat.jmp.trees import boolean, times
from precis.optim import LossScale as Schedule
from precis.optim import adjust, dynamic_loss_scale, loss_scale_like, static_loss_scale
from precis.types import PyTree


@jax.tree_util.register_static
@dataclass(frozen=True)
class NoOpLossScale:
    """Leaves everything as it is."""

    @property
    def loss_scale(self) -> int:
        """1."""
        return 1

    def scale(self, tree: PyTree) -> PyTree:
        """`tree` itself."""
        return tree

    def unscale(self, tree: PyTree) -> PyTree:
        """`tree` itself."""
        return tree

    def adjust(self, grads_finite: ArrayLike) -> NoOpLossScale:
        """Itself."""
        del grads_finite
        return self


@dataclass(frozen=True)
class StaticLossScale:
    """A factor that stays.

    Attributes:
        loss_scale: [] float32, more than 0.

    Raises:
        ValueError: It is no positive number.
    """

    loss_scale: Array | float

    def __post_init__(self) -> None:
        _set(self, loss_scale=static_loss_scale(self.loss_scale).value)

    def scale(self, tree: PyTree) -> PyTree:
        """`tree` with its floats times `loss_scale`, in float32 or wider."""
        return times(tree, self.loss_scale)

    def unscale(self, tree: PyTree) -> PyTree:
        """`tree` with its floats times 1 / `loss_scale`, in float32 or wider."""
        return times(tree, self.loss_scale, inverted=True)

    def adjust(self, grads_finite: ArrayLike) -> StaticLossScale:
        """Itself."""
        del grads_finite
        return self


@dataclass(frozen=True)
class DynamicLossScale:
    """A factor that grows after `period` finite steps in a row and shrinks after any other.

    >>> loss_scale = DynamicLossScale(jnp.float16(2.0**15))
    >>> float(loss_scale.adjust(jnp.bool_(False)).loss_scale)
    16384.0

    Attributes:
        loss_scale: [] float32, at least `min_loss_scale`.
        counter: [] int32, finite steps since it last changed.
        period: How many of them it takes to grow. Static.
        factor: By which it grows, and is divided. Static.
        min_loss_scale: [] float32, the least it becomes. It is a leaf, so that jit keeps it; 0
            becomes 2^-126, from which a scale can come back.

    Raises:
        ValueError: A number is out of its range.
    """

    loss_scale: Array | float
    counter: Array | int = 0
    period: int = 2000
    factor: float = 2
    min_loss_scale: Array | float = 1.0

    def __post_init__(self) -> None:
        widest = loss_scale_like("torch")
        checked = dynamic_loss_scale(
            self.loss_scale,
            growth_factor=self.factor,
            backoff_factor=1 / self.factor,
            growth_interval=self.period,
            min=jnp.maximum(jnp.asarray(self.min_loss_scale, jnp.float32), widest.min),
            max=widest.max,
        )
        counter = jnp.asarray(self.counter, jnp.int32)
        _set(self, loss_scale=checked.value, counter=counter, min_loss_scale=checked.min)

    def scale(self, tree: PyTree) -> PyTree:
        """`tree` with its floats times `loss_scale`, in float32 or wider."""
        return times(tree, self.loss_scale)

    def unscale(self, tree: PyTree) -> PyTree:
        """`tree` with its floats times 1 / `loss_scale`, in float32 or wider."""
        return times(tree, self.loss_scale, inverted=True)

    @property
    def static_facts(self) -> dict[str, Any]:
        """What a checkpoint of its arrays must be read with."""
        return {"period": self.period, "factor": float(self.factor)}

    def adjust(self, grads_finite: ArrayLike) -> DynamicLossScale:
        """The loss scale for the next step.

        Args:
            grads_finite: [] bool, whether this step's gradients were.

        Raises:
            ValueError: It is no boolean scalar.
        """
        growth = jnp.asarray(self.factor, jnp.float32)
        before = Schedule(
            value=jnp.asarray(self.loss_scale),
            growth_factor=growth,
            backoff_factor=1 / growth,
            growth_interval=jnp.asarray(self.period, jnp.int32),
            min=jnp.asarray(self.min_loss_scale),
            max=loss_scale_like("torch").max,
            good_steps=jnp.asarray(self.counter),
        )
        after = adjust(before, boolean(grads_finite))
        return _dynamic((self.period, self.factor), (after.value, after.good_steps, after.min))


LossScale: TypeAlias = NoOpLossScale | StaticLossScale | DynamicLossScale


def _set(scale: Any, **fields: Any) -> None:
    for name, value in fields.items():
        object.__setattr__(scale, name, value)


def _static(_: None, leaves: Iterable[Any]) -> StaticLossScale:
    (loss_scale,) = leaves
    made = object.__new__(StaticLossScale)
    _set(made, loss_scale=loss_scale)
    return made


def _dynamic(facts: tuple[int, float], leaves: Iterable[Any]) -> DynamicLossScale:
    """Unchecked, since a transformation may put anything in a leaf's place."""
    made = object.__new__(DynamicLossScale)
    loss_scale, counter, least = leaves
    period, factor = facts
    _set(
        made,
        loss_scale=loss_scale,
        counter=counter,
        period=period,
        factor=factor,
        min_loss_scale=least,
    )
    return made


def _keyed(scale: Any, *names: str) -> tuple[tuple[Any, Any], ...]:
    return tuple((jax.tree_util.GetAttrKey(name), getattr(scale, name)) for name in names)


jax.tree_util.register_pytree_with_keys(
    StaticLossScale, lambda scale: (_keyed(scale, "loss_scale"), None), _static
)
jax.tree_util.register_pytree_with_keys(
    DynamicLossScale,
    lambda scale: (
        _keyed(scale, "loss_scale", "counter", "min_loss_scale"),
        (scale.period, scale.factor),
    ),
    _dynamic,
)
