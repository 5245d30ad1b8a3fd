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
        place: An operand of the region or, counted on from those, the result of a member; or a
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
    found: dict[int, tuple[int, ...]] = {}
    taken: set[int] = set()
    for last in reversed(range(len(steps))):
        if last in taken or not _joins(steps[last]):
            continue
        members, passed = {last}, set()
        wanted = set(steps[last].inputs)
        for index in range(last - 1, max(last - _WINDOW, 0) - 1, -1):
            step = steps[index]
            is_own = not wanted.isdisjoint(step.outputs)
            if (
                is_own
                and _joins(step)
                and members.issuperset(readers[step.outputs[0]])
                and passed.isdisjoint(step.inputs)
            ):
                members.add(index)
                wanted.update(step.inputs)
            else:
                passed.update(slot for slot in step.inputs if program.values[slot].format)
        taken |= members
        found[last] = tuple(sorted(members))
    return found


def _joins(step: Step) -> bool:
    match step.action:
        case Run(work):
            return step.eqn.primitive.name in equations.ELEMENTWISE and not is_wide(work)
        case _:
            return False


def gather(program: Program, steps: Sequence[Step], env: Environment) -> tuple[Region, list[Any]]:
    """The region of `steps`, and its operands.

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
                reads.append(Read(-1 - made[slot], value, forks))
                continue
            array = env.read(slot)
            if isinstance(array, np.ndarray) and not array.ndim:
                reads.append(Read(Scalar(array.dtype, array.tobytes()), value))
                continue
            if _comes_narrow(known, array.shape == shape):
                array, value = move(array, known, work), Value(Kind.POLICY, work)
            reads.append(Read(len(arrays), value))
            arrays.append(array)
        params = tuple(step.eqn.params.items())
        members.append(Member(step.eqn.primitive, params, shape, work, tuple(reads)))
    n = len(arrays)
    operands = arrays[::-1]
    first: dict[int, int] = {}
    same_as = tuple(first.setdefault(id(array), i) for i, array in enumerate(operands))
    return Region(tuple(_placed(member, n) for member in members), same_as), operands


def _placed(member: Member, count: int) -> Member:
    def placed(read: Read) -> Read:
        match read.place:
            case int() as place:
                return read._replace(place=count - 1 - place)
            case _:
                return read

    return member._replace(reads=tuple(map(placed, member.reads)))


def _comes_narrow(value: Value, has_shape: bool) -> bool:
    """Whether the region takes an operand as its member wants it, rather than as it is stored.

    It would keep what it takes. Of parameters and statistics there is a copy already; what is
    broadcast is small, and its cotangent is summed before it is rounded.
    """
    if value.format is None or value.kind in (Kind.WEIGHT, Kind.STATE):
        return False
    return has_shape or value.kind is Kind.FREE
