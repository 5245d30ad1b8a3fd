"""Arrays by slot while a program runs; a value in an emulated format forks at each use.

Where a value is used more than once, its cotangents are summed. Differentiation sums values of
a dtype in that dtype, one at a time, last use first. For a format without a dtype it would sum
in float32 and lose those roundings, so they are put where they belong. Strictly it is done for
16-bit dtypes, too: a compiler that may leave out roundings leaves out those between sums.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

import jax
from jax import Array

from precis.formats import FloatFormat, cast_to, wide_dtype
from precis.walk.move import is_wide
from precis.walk.program import Multiply, Opaque, Program, Run


class Environment:
    """The arrays of one run of a program: each is written once and read as often as planned."""

    def __init__(self, program: Program, *, fork: bool, strict: bool = False):
        reads = chain.from_iterable(step.inputs for step in program.steps)
        self._uses = Counter(chain(reads, (slot for slot, _ in program.outputs)))
        self._values = program.values
        self._fork = fork
        self._strict = strict
        self._steps = program.steps
        self._arrays: dict[int, Any] = dict(program.constants)

    @functools.cached_property
    def _rounded(self) -> frozenset[int]:
        """Slots of what is rounded where it is made; moved elements and bodies' results are not."""
        rounding = (
            step for step in self._steps if isinstance(step.action, Run | Multiply | Opaque)
        )
        return frozenset(chain.from_iterable(step.outputs for step in rounding))

    def write(self, slots: Iterable[int], arrays: Iterable[Any]) -> None:
        """Stores one array for each slot."""
        self._arrays.update(zip(slots, arrays, strict=True))

    def read(self, slot: int) -> Any:
        """The array in a slot, for one of its uses."""
        value, fmt = self._values[slot], self._values[slot].format
        if not self._fork or fmt is None or is_wide(fmt) or (fmt.is_native and not self._strict):
            return self._arrays[slot]
        if value.stored_as is not None:  # whose cotangents are float32, whatever it stands for
            return self._arrays[slot]
        self._uses[slot] -= 1
        # Two cotangents are rounded together where the value was rounded, if that was where it was
        # made; else, and if there are more than two, they are on the way.
        later = 2 if slot in self._rounded and not fmt.is_native else 1
        if self._uses[slot] < later:
            return self._arrays[slot]
        now, self._arrays[slot] = fork(self._arrays[slot], fmt)
        return now


def fork(x: Array, fmt: FloatFormat) -> tuple[Array, Array]:
    """`x`, in `fmt`, twice: for this use, and for the two or more that come after it."""
    call = jax.custom_vjp(lambda x: (x, x))
    wide = wide_dtype(x.dtype)

    def backward(_: None, cotangents: tuple[Array, Array]) -> tuple[Array]:
        # The second is a sum already, of the later uses.
        now, later = (g.astype(wide) for g in cotangents)
        return (cast_to(now + cast_to(later, fmt).astype(wide), fmt),)

    call.defvjp(lambda x: ((x, x), None), backward)
    return call(x)
