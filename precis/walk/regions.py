"""Regions: stretches of elementwise steps in few bits that are differentiated as one.

Each such step computes in float32 and is rounded once. Left to JAX, its derivative would keep
what float32 saw. A region keeps its operands as they are stored and computes the rest anew.

It is a tree: all that its steps make goes into its last one, the only one whose result leaves. So
the result depends on whatever any step depends on, and nothing is differentiated that was not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from precis.formats import FloatFormat
from precis.walk import equations
from precis.walk.environment import Environment
from precis.walk.kinds import Kind, Value
from precis.walk.move import is_wide, move
from precis.walk.program import Program, Run, Step

# How far back the tree looks for its leaves: the elementwise part of a layer, and to spare.
_WINDOW = 64


class Scalar(NamedTuple):
    """A constant of rank 0, which belongs to the region itself."""

    dtype: np.dtype
    data: bytes

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The constant."""
        return np.frombuffer(self.data, self.dtype).reshape(())


class Read(NamedTuple):
    """One operand of a member.

    Attributes:
        place: The result of a member; or, below 0, an operand of the region, the last one -1; or a
            constant.
        value: Its kind and format.
        forks: Whether the value forks here, as in `Environment`.
    """

    place: int | Scalar
    value: Value
    forks: bool = False


class Member(NamedTuple):
    """An elementwise op of a region.

    Attributes:
        primitive: The op.
        params: Its parameters.
        shape: That of its result.
        work: What it computes in.
        reads: Its operands.
    """

    primitive: Any
    params: tuple[tuple[str, Any], ...]
    shape: tuple[int, ...]
    work: FloatFormat
    reads: tuple[Read, ...]


class Region(NamedTuple):
    """A region but for its arrays: those of equal layers are equal, and are traced once.

    Attributes:
        members: In order; the result is the last one's.
        same_as: For each operand the first one that is the same array, itself if none is before.
    """

    members: tuple[Member, ...]
    same_as: tuple[int, ...]


def regions_of(program: Program) -> dict[int, tuple[int, ...]]:
    """The steps of each region in order, by the step whose result leaves it.

    A step is computed later than planned, with the last of its region. It must then not come
    after another reader of an operand of its own: cotangents are summed in the order of use.
    """
    steps, readers = program.steps, defaultdict(list)
    for index, step in enumerate(steps):
        for slot in step.inputs:
            readers[slot].append(index)
    for slot, _ in program.outputs:
        readers[slot].append(len(steps))
    makers = {step.outputs[0]: index for index, step in enumerate(steps) if _joins(step)}

    def makers_for(index: int) -> set[int]:
        return {makers[slot] for slot in steps[index].inputs if slot in makers}

    def waits(index: int, last: int, members: set[int]) -> bool:
        """Whether others read neither what the step makes nor, before the last, what it reads."""
        floats = (slot for slot in steps[index].inputs if program.values[slot].format)
        return members.issuperset(readers[steps[index].outputs[0]]) and not any(
            index < reader < last and reader not in members
            for slot in floats
            for reader in readers[slot]
        )

    found: dict[int, tuple[int, ...]] = {}
    taken: set[int] = set()
    for last in reversed(makers.values()):
        if last in taken:
            continue
        members, wanted = {last}, makers_for(last)
        # From the end on, so that all readers of what a step makes are known when it is looked at.
        while wanted and (index := max(wanted)) >= last - _WINDOW:
            wanted.remove(index)
            if waits(index, last, members):
                members.add(index)
                wanted |= makers_for(index)
        taken |= members
        found[last] = tuple(sorted(members))
    return found


def _joins(step: Step) -> bool:
    match step.action:
        case Run(work):
            return step.eqn.primitive.name in equations.ELEMENTWISE and not is_wide(work)
        case _:
            return False


def gather(
    program: Program, steps: Sequence[Step], env: Environment, *, strict: bool = False
) -> tuple[Region, list[Any]]:
    """The region of `steps`, and its operands, which `move` brings, strictly if so asked.

    Every use is an operand of its own, the last one first: JAX adds their cotangents in the order
    of the operands, and without the region would add them from the last use on.
    """
    made = {slot: index for index, step in enumerate(steps) for slot in step.outputs}
    left = {slot: sum(step.inputs.count(slot) for step in steps) for slot in made}
    arrays: list[Any] = []
    members = []
    for step in steps:
        assert isinstance(step.action, Run)
        work, shape = step.action.work, step.eqn.outvars[0].aval.shape
        reads = []
        for slot in step.inputs:
            known = program.values[slot]
            value = Value(known.kind, known.format)
            if slot in made:
                left[slot] -= 1
                forks = left[slot] >= 2 and not (known.format is None or known.format.is_native)
                reads.append(Read(made[slot], value, forks))
                continue
            array = env.read(slot)
            if isinstance(array, np.ndarray) and not array.ndim:
                reads.append(Read(Scalar(array.dtype, array.tobytes()), value))
                continue
            if _comes_narrow(known, array.shape == shape):
                array = move(array, known, work, strict=strict)
                value = Value(Kind.POLICY, work)
            arrays.append(array)
            reads.append(Read(-len(arrays), value))
        params = tuple(step.eqn.params.items())
        members.append(Member(step.eqn.primitive, params, shape, work, tuple(reads)))
    operands = arrays[::-1]
    first: dict[int, int] = {}
    same_as = tuple(first.setdefault(id(array), i) for i, array in enumerate(operands))
    return Region(tuple(members), same_as), operands


def _comes_narrow(value: Value, has_shape: bool) -> bool:
    """Whether the region takes an operand as its member wants it, rather than as it is stored.

    It would keep what it takes. Of parameters and statistics there is a copy already; what is
    broadcast is small, and its cotangent is summed before it is rounded.
    """
    if value.format is None or value.kind in (Kind.WEIGHT, Kind.STATE):
        return False
    return has_shape or value.kind is Kind.FREE
