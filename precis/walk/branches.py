"""Plans a choice among bodies: each branch by itself, their results brought to one format."""

from __future__ import annotations

from typing import Any

from precis.walk.doors import chosen, enter
from precis.walk.draft import Draft
from precis.walk.equations import Call
from precis.walk.program import Cond
from precis.walk.stored import agreed


def plan_cond(draft: Draft, eqn: Any, call: Call, inputs: tuple[int, ...]) -> list[int]:
    """Every branch sees the same operands; islands among them end at the door."""
    index, *operands = (enter(draft.rules.policy, draft.values[slot]) for slot in inputs)
    bodies = [
        draft.body(jaxpr, consts, operands)
        for jaxpr, consts in ((call.jaxpr, call.consts), *call.others)
    ]
    results = [
        chosen(draft.rules, list(values), var.aval, by_data=index.data)
        for *values, var in zip(*(body.results for body in bodies), eqn.outvars, strict=True)
    ]
    bodies = [agreed(body, eqn, results) for body in bodies]
    formats = [value.format for value in results]
    action = Cond(
        tuple(body.finish(formats) for body in bodies),
        (None, *(value.format for value in operands)),
    )
    return draft.step(eqn, action, inputs, results)
