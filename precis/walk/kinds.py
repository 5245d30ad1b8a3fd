"""What the walker knows of a value: its kind, its format, and where it comes from."""

from __future__ import annotations

import functools
from enum import Enum
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from precis.formats import CATALOGUE, FLOAT32, FloatFormat
from precis.quant import Stored


class Kind(Enum):
    """The kinds of values, in the order in which a join prefers them.

    Attributes:
        DISCRETE: Integers, booleans, keys: never cast.
        FREE: Floats from constants, integers or random bits only.
        WEIGHT: From parameters and free values only; stays as stored, is cast at use.
        STATE: Running statistics and the like; never cast.
        ISLAND: In the sensitive format.
        POLICY: In the activation format.
    """

    DISCRETE = "discrete"
    FREE = "free"
    WEIGHT = "weight"
    STATE = "state"
    ISLAND = "island"
    POLICY = "policy"


_ORDER = list(Kind)


class Value(NamedTuple):
    """One value of a program, before it exists.

    Attributes:
        kind: Its kind.
        format: The format that it is in; None for discrete values.
        root: Identity of the value of which this is a rearrangement.
        sources: Islands: roots of the policy values that it was computed from.
        paths: Parameters that flowed into it, nearest first.
        data: Whether it depends on an input that is neither parameter nor state.
        absorbs: Islands: an accumulator, which draws every operand into the island.
        stored: The format in which a parameter or state keeps what derives from it.
        fresh: Straight from a matrix op, up to layout and arithmetic with neutral values.
        stored_as: Of a weight in few bits, codes and scales, with shapes in place of arrays.
    """

    kind: Kind
    format: FloatFormat | None = None
    root: int = 0
    sources: frozenset[int] = frozenset()
    paths: tuple[str, ...] = ()
    data: bool = False
    absorbs: bool = False
    stored: FloatFormat | None = None
    fresh: bool = False
    stored_as: Stored | None = None

    @property
    def is_parameter(self) -> bool:
        """Whether it comes from parameters and constants alone: stored codes are parameters too."""
        coded = self.kind is Kind.FREE and bool(self.paths)
        return (coded or self.kind is Kind.WEIGHT) and not self.data

    @property
    def is_neutral(self) -> bool:
        """Whether the policy leaves the value as it is until it meets one that it governs."""
        return self.kind is not Kind.POLICY and self.kind is not Kind.ISLAND


def join(values: list[Value]) -> Value:
    """The value that an op on `values` gives, its format and root still to be set.

    Free with weight is weight; state with a neutral is state; an island with a neutral is an
    island; anything with policy is policy. Formats are the planner's to decide.
    """
    if not values:
        return Value(Kind.FREE)
    # Most ops have an operand or two, and there are many ops.
    first, *others = values
    kind, paths, data, absorbs, stored = (
        first.kind,
        first.paths,
        first.data,
        first.absorbs,
        first.stored,
    )
    sources = first.sources if kind is Kind.ISLAND else frozenset()
    for value in others:
        kind = max(kind, value.kind, key=_ORDER.index)
        if value.kind is Kind.ISLAND:
            sources |= value.sources
        paths += tuple(path for path in value.paths if path not in paths)
        data, absorbs = data or value.data, absorbs or value.absorbs
        stored = stored or value.stored
    return Value(kind, None, 0, sources, paths, data, absorbs, stored)


def carried(before: Value, after: Value) -> Value:
    """The value of a loop carry that starts as `before` and is updated to `after`."""
    both = join([before, after])
    if before.kind is Kind.ISLAND and before.absorbs:
        return before
    if before.stored_as is not None and before.stored_as == after.stored_as:
        return before
    if Kind.ISLAND in (before.kind, after.kind) and Kind.POLICY not in (before.kind, after.kind):
        return both._replace(kind=Kind.ISLAND, sources=frozenset())
    return both._replace(sources=frozenset())


@functools.lru_cache(maxsize=64)
def format_of(dtype: np.dtype) -> FloatFormat | None:
    """The native format of a float dtype, float32 for a float8; None if it is not a float."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return None
    fmt = CATALOGUE.get(np.dtype(dtype).name)
    return fmt if isinstance(fmt, FloatFormat) and fmt.is_native else FLOAT32


@functools.lru_cache(maxsize=64)
def low_format_of(dtype: np.dtype) -> FloatFormat | None:
    """`format_of` a float dtype of fewer bits than float32; None of any other."""
    fmt = format_of(dtype)
    return fmt if fmt and fmt.bits < FLOAT32.bits else None
