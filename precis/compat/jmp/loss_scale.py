"""jmp's loss scales, on the schedule of `precis.optim`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from precis.optim import LossScale as Schedule
from precis.optim import adjust, dynamic_loss_scale, loss_scale_like, static_loss_scale
from precis.tree import map_floats
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
        return _times(tree, self.loss_scale)

    def unscale(self, tree: PyTree) -> PyTree:
        """`tree` with its floats times 1 / `loss_scale`, in float32 or wider."""
        return _times(tree, self.loss_scale, inverted=True)

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
        return _times(tree, self.loss_scale)

    def unscale(self, tree: PyTree) -> PyTree:
        """`tree` with its floats times 1 / `loss_scale`, in float32 or wider."""
        return _times(tree, self.loss_scale, inverted=True)

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
        after = adjust(before, _boolean(grads_finite))
        return _dynamic((self.period, self.factor), (after.value, after.good_steps, after.min))


LossScale: TypeAlias = NoOpLossScale | StaticLossScale | DynamicLossScale


def all_finite(tree: PyTree) -> Array:
    """[] bool: whether every number in `tree` is finite; True if there is none."""
    leaves = (jnp.asarray(x) for x in jax.tree.leaves(tree))
    finite = [jnp.isfinite(x).all() for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack(finite).all() if finite else jnp.asarray(True)


def select_tree(pred: ArrayLike, a: PyTree, b: PyTree) -> PyTree:
    """`a` where `pred`, else `b`, bit for bit; never a mixture of their dtypes.

    Args:
        pred: [] bool.
        a: A tree of arrays.
        b: A tree of the same shapes and dtypes.

    Raises:
        ValueError: `pred` is no boolean scalar.
        TypeError: Leaves differ in dtype or shape.
    """
    which = _boolean(pred)
    return jax.tree.map(lambda x, y: lax.select(which, x, y), a, b)


def _boolean(pred: ArrayLike) -> Array:
    made = jnp.asarray(pred)
    if made.shape != () or made.dtype != jnp.bool_:
        raise ValueError(
            f"expected boolean scalar, got {made.dtype.name}{list(made.shape)}: reduce it, as "
            "all_finite does"
        )
    return made


def _times(tree: PyTree, factor: ArrayLike, *, inverted: bool = False) -> PyTree:
    """The floats of `tree` times `factor` or 1 / `factor`; a float16 becomes float32."""

    def times(x: Any) -> Array:
        x = jnp.asarray(x)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        by = jnp.asarray(factor, wide)
        return x.astype(wide) * (1 / by if inverted else by)

    return map_floats(times, tree)


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
