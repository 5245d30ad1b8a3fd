"""What stands in a parameter's place while its update is made, and what becomes of it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from precis.formats import FloatFormat, ScaledFormat, cast_to
from precis.optim.coded import opened, requantized
from precis.optim.kept import Kept, Storage
from precis.optim.norm import widened
from precis.quant import QTensor
from precis.tree import is_float
from precis.types import PyTree


class Pending(NamedTuple):
    """A parameter in its own format, whose update is asked for.

    Attributes:
        param: [...] the parameter.
        update: [...] float32 or wider; -0.0 until there is one.
    """

    param: Array
    update: Array


class Mastered(NamedTuple):
    """A parameter and its master.

    Attributes:
        param: [...] the parameter; None if it is codes and scales, which follow from the master.
        master: [...] in a wider dtype.
    """

    param: Array | None
    master: Array


class Drawn(NamedTuple):
    """A parameter that is rounded at random.

    Attributes:
        param: [...] the parameter; all of it in float32 if it is codes and scales.
        key: Of the next rounding.
    """

    param: Array
    key: Array


class Compensated(NamedTuple):
    """A parameter and what its last rounding left out.

    Attributes:
        param: [...] the parameter.
        left: [...] the same dtype.
    """

    param: Array
    left: Array


# What stands in a parameter's place while its update is made: one of the above, or the parameter
# itself, if nothing is kept beside it and its update is not asked for.
Node: TypeAlias = Pending | Mastered | Drawn | Compensated
Carried: TypeAlias = Node | Array


def carried_by(leaf: Any, kept: Kept | None, *, pending: bool) -> Carried:
    """What stands in a parameter's place, if its state is `kept`.

    Args:
        leaf: The parameter, [...] or codes and scales.
        kept: None if it needs nothing but itself.
        pending: Then, whether its update is asked for.
    """
    if kept is not None and isinstance(kept.storage, ScaledFormat):
        is_drawn = kept.rounding == "stochastic"
        return Drawn(opened(leaf), kept.value) if is_drawn else Mastered(None, kept.value)
    if kept is None:
        return Pending(leaf, -jnp.zeros_like(widened(leaf))) if pending else leaf
    # Only what was never stored is still wider than storage.
    assert isinstance(kept.storage, FloatFormat)
    param = leaf if leaf.dtype == kept.storage.carrier else cast_to(leaf, kept.storage)
    node = {"nearest": Mastered, "stochastic": Drawn, "kahan": Compensated}[kept.rounding]
    return node(param, kept.value)


def base_of(carried: Carried) -> Array:
    """What an update is added to: the wide parameter, or what its last rounding left out."""
    match carried:
        case Compensated(_, left):
            return widened(left)
        case Drawn(param, _):
            return widened(param)
        case Mastered(_, master):
            return master
        case Pending(param, _):
            return param
        case _:
            return carried


def shown(tree: PyTree) -> PyTree:
    """What an optimizer is shown of the parameters that `tree` carries: float32 or wider."""

    def show(carried: Carried) -> Array:
        wide = carried.master if isinstance(carried, Mastered) else param_of(carried)
        return widened(wide)

    return jax.tree.map(show, tree, is_leaf=lambda x: isinstance(x, Node))


def updated(carried: Carried, new: Array, update: Array, storage: Storage) -> Carried:
    """`carried` after a step; what is stored as codes is not rounded yet, which takes all of it.

    Args:
        carried: Before it.
        new: [...] `base_of(carried)` with the update added.
        update: [...] the update.
        storage: The parameter's format.
    """
    match carried:
        case Pending(param, _):
            return Pending(param, update)
        case Mastered():
            is_coded = isinstance(storage, ScaledFormat)
            return Mastered(None if is_coded else cast_to(new, storage), new)
        case Drawn(_, key):
            now, later = jax.random.split(key)
            is_coded = isinstance(storage, ScaledFormat)
            return Drawn(new if is_coded else cast_to(new, storage, key=now), later)
        case Compensated(param, _):
            wide = widened(param)
            after = cast_to(wide + new, storage)
            return Compensated(after, cast_to(new - (widened(after) - wide), storage))
        case _:
            return cast_to(new, storage) if is_float(new) else new


def param_of(carried: Carried) -> Array:
    """[...] the parameter, which is in storage after a step."""
    param = carried.param if isinstance(carried, Node) else carried
    assert param is not None
    return param


def coded_of(carried: Carried, before: Kept, old: QTensor, when: Array | None) -> QTensor:
    """The codes and scales of a parameter after a step; `old`, bit for bit, if it was skipped.

    Args:
        carried: What `updated` made of it, or what it was.
        before: What was kept of it before the step.
        old: It before the step.
        when: [] bool, whether the step was taken; None if it was, or if a transformation inside
            decided.
    """
    if isinstance(carried, Mastered):
        take = functools.partial(requantized, old)
        if when is None:
            return take(carried.master)
        # Codes that came from elsewhere may not be what their own values are quantized to.
        return lax.cond(when, take, lambda _: old, carried.master)
    assert isinstance(carried, Drawn)
    # Each step that is taken splits the key.
    first, last = (jax.random.key_data(key) for key in (before.value, carried.key))
    now, _ = jax.random.split(before.value)
    draw = lambda wide: requantized(old, wide, now)  # noqa: E731
    return lax.cond((first != last).any(), draw, lambda _: old, carried.param)


def update_of(carried: Carried, old: Array) -> Array:
    """[...] float32 or wider: what optax adds to `old` to get the parameter after a step.

    It is -0.0 where that is what it was.
    """
    if isinstance(carried, Pending):
        return carried.update
    change = widened(param_of(carried)) - widened(old)
    return jnp.where(old == param_of(carried), -jnp.zeros_like(change), change)
