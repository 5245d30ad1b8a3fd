"""What the walker knows of a value: its kind, its format, and where it comes from."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from enum import Enum

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
NEUTRAL = frozenset({Kind.DISCRETE, Kind.FREE, Kind.WEIGHT, Kind.STATE})


@dataclass(frozen=True, slots=True)
class Value:
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
        return self.kind in NEUTRAL


def join(values: list[Value]) -> Value:
    """The value that an op on `values` gives, its format and root still to be set.

    Free with weight is weight; state with a neutral is state; an island with a neutral is an
    island; anything with policy is policy. Formats are the planner's to decide.
    """
    kind = max((value.kind for value in values), key=_ORDER.index, default=Kind.FREE)
    paths = tuple(dict.fromkeys(path for value in values for path in value.paths))
    stored = next((v.stored for v in values if v.stored), None)
    return Value(
        kind=kind,
        sources=frozenset().union(*(v.sources for v in values if v.kind is Kind.ISLAND)),
        paths=paths,
        data=any(v.data for v in values),
        absorbs=any(v.absorbs for v in values),
        stored=stored,
    )


def carried(before: Value, after: Value) -> Value:
    """The value of a loop carry that starts as `before` and is updated to `after`."""
    both = join([before, after])
    if before.kind is Kind.ISLAND and before.absorbs:
        return before
    if before.stored_as is not None and before.stored_as == after.stored_as:
        return before
    if Kind.ISLAND in (before.kind, after.kind) and Kind.POLICY not in (before.kind, after.kind):
        return replace(both, kind=Kind.ISLAND, sources=frozenset())
    return replace(both, sources=frozenset())


@functools.lru_cache(maxsize=64)
def format_of(dtype: np.dtype) -> FloatFormat | None:
    """The native format of a float dtype, float32 for a float8; None if it is not a float."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return None
    fmt = CATALOGUE.get(np.dtype(dtype).name)
    return fmt if isinstance(fmt, FloatFormat) and fmt.is_native else FLOAT32
