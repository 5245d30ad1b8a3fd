"""A matrix op that feeds only an island hands over its accumulator unrounded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from precis.policy import Policy
from precis.walk.kinds import Kind
from precis.walk.program import Multiply, Program, Rearrange, Run, Step


def hand_over(program: Program, policy: Policy, unrounded: frozenset[int] = frozenset()) -> Program:
    """`program` with each such op, and what lies between it and its island, moved into it.

    Between them may lie layout and arithmetic with neutral values: a scale, a bias, a mask. Read
    from the end: a value is drawn in if every use of it is in an island, or a comparison. To
    leave the program ends that, but for the slots in `unrounded`.
    """
    if policy.activation == policy.sensitive == policy.accum:
        return program
    uses: dict[int, list[int]] = defaultdict(list)
    for index, step in enumerate(program.steps):
        for slot in step.inputs:
            uses[slot].append(index)
    leaving = {slot for slot, _ in program.outputs} - unrounded
    steps, values = list(program.steps), dict(program.values)

    def wants_island(step: Step) -> bool | None:
        """Whether this use is in the island; None for a comparison, which is content with any."""
        if not isinstance(step.action, Run | Rearrange):
            return False
        kinds = {values[slot].kind for slot in step.outputs}
        return None if kinds == {Kind.DISCRETE} else kinds == {Kind.ISLAND}

    for index in reversed(range(len(steps))):
        step = steps[index]
        if len(step.outputs) != 1 or not isinstance(step.action, Multiply | Run | Rearrange):
            continue
        (slot,) = step.outputs
        if not values[slot].fresh or slot in leaving:
            continue
        wants = [wants_island(steps[use]) for use in uses[slot]]
        wants += [True] * (slot in unrounded)
        if False in wants or True not in wants:
            continue
        match step.action:
            case Multiply(roles, site):
                out = roles.accum
                action = Multiply(roles._replace(out=out), site)
            case Run():
                out = policy.sensitive
                action = Run(out)
            case Rearrange():
                out = policy.sensitive
                action = Rearrange(out)
        steps[index] = step._replace(action=action)
        values[slot] = values[slot]._replace(kind=Kind.ISLAND, format=out)
    return replace(program, steps=tuple(steps), values=values)
