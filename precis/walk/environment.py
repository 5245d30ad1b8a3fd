"""Arrays by slot while a program runs; a value in an emulated format forks at each use.

Where a value is used more than once, its cotangents are summed. Differentiation sums values of
a dtype in that dtype, one at a time, last use first. For a format without a dtype it would sum
in float32 and lose those roundings, so they are put where they belong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

import jax
from jax import Array

from precis.formats import FloatFormat, cast_to
from precis.walk.program import Program


class Environment:
    """The arrays of one run of a program: each is written once and read as often as planned."""

    def __init__(self, program: Program, *, fork: bool):
        reads = chain.from_iterable(step.inputs for step in program.steps)
        self._uses = Counter(chain(reads, (slot for slot, _ in program.outputs)))
        self._values = program.values
        self._fork = fork
        self._inputs = frozenset(program.inputs)
        self._arrays: dict[int, Any] = dict(program.constants)

    def write(self, slots: Iterable[int], arrays: Iterable[Any]) -> None:
        """Stores one array for each slot."""
        self._arrays.update(zip(slots, arrays, strict=True))

    def read(self, slot: int) -> Any:
        """The array in a slot, for one of its uses."""
        fmt = self._values[slot].format
        if not self._fork or fmt is None or fmt.is_native:
            return self._arrays[slot]
        self._uses[slot] -= 1
        # Two cotangents are rounded together where the value was made, unless that was in
        # another program; more than two are rounded on the way.
        later = 1 if slot in self._inputs else 2
        if self._uses[slot] < later:
            return self._arrays[slot]
        now, self._arrays[slot] = fork(self._arrays[slot], fmt)
        return now


def fork(x: Array, fmt: FloatFormat) -> tuple[Array, Array]:
    """`x`, in `fmt`, twice: for this use, and for the two or more that come after it."""
    call = jax.custom_vjp(lambda x: (x, x))
    # The second cotangent is a sum already, of the later uses.
    call.defvjp(lambda x: ((x, x), None), lambda _, g: (cast_to(g[0] + cast_to(g[1], fmt), fmt),))
    return call(x)
