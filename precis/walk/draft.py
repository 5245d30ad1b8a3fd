"""A program in the making, and the bodies inside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from precis.formats import FloatFormat
from precis.walk.handover import hand_over
from precis.walk.islands import Rules
from precis.walk.kinds import Value
from precis.walk.program import Action, Program, Step


@dataclass(slots=True)
class Draft:
    """A program in the making.

    Attributes:
        rules: What every decision depends on beside the equation.
        visit: Plans every equation of a body, given its constants and the slots of its inputs,
            and returns the slots of its results.
        slots: Numbers not yet used, shared with the bodies inside.
        steps: So far.
        values: What is known of each slot.
        constants: Slots whose array is known.
    """

    rules: Rules
    visit: Callable[[Draft, Any, Any, tuple[int, ...]], list[int]]
    slots: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    steps: list[Step] = field(default_factory=list)
    values: dict[int, Value] = field(default_factory=dict)
    constants: dict[int, Any] = field(default_factory=dict)

    def add(self, value: Value) -> int:
        """A new slot for `value`, which is its own root unless it has one."""
        slot = next(self.slots)
        self.values[slot] = value if value.root else value._replace(root=slot)
        return slot

    def step(
        self, eqn: Any, action: Action, inputs: tuple[int, ...], values: Iterable[Value]
    ) -> list[int]:
        """Adds a step and returns the slots of its results."""
        outputs = [self.add(value) for value in values]
        self.steps.append(Step(eqn, action, inputs, tuple(outputs)))
        return outputs

    def body(self, jaxpr: Any, consts: Any, values: Iterable[Value]) -> Body:
        """The plan of a body inside this program, on what is known of its inputs."""
        draft = Draft(self.rules, self.visit, self.slots)
        inputs = tuple(draft.add(value) for value in values)
        return Body(draft, inputs, self.visit(draft, jaxpr, consts, inputs))


class Body(NamedTuple):
    """A body, planned but for the formats in which its results leave."""

    draft: Draft
    inputs: tuple[int, ...]
    outputs: list[int]

    @property
    def results(self) -> list[Value]:
        """What is known of each result before it leaves."""
        return [self.draft.values[slot] for slot in self.outputs]

    def finish(
        self, formats: Iterable[FloatFormat | None], *, unrounded: Iterable[int] = ()
    ) -> Program:
        """The program, its results leaving in `formats`.

        Args:
            formats: One for each result.
            unrounded: Results that leave as a matrix op's accumulator has them.
        """
        draft, outputs = self.draft, tuple(zip(self.outputs, formats, strict=True))
        program = Program(self.inputs, tuple(draft.steps), outputs, draft.values, draft.constants)
        wide = frozenset(self.outputs[i] for i in unrounded)
        return hand_over(program, draft.rules.policy, wide)
