"""Plans loops: islands end at the door, carries settle by fixpoint."""

from __future__ import annotations

from collections import Counter
from typing import Any

from precis.walk.carries import linear_carries
from precis.walk.doors import carry, enter, leave
from precis.walk.draft import Body, Draft
from precis.walk.equations import Call
from precis.walk.kinds import Value
from precis.walk.program import Scan, While
from precis.walk.stored import agreed, opened, row_of, stacked


def plan_scan(draft: Draft, eqn: Any, call: Call, inputs: tuple[int, ...]) -> list[int]:
    """Rules 5 and 7."""
    policy, n, m = draft.rules.policy, call.num_consts, call.num_carry
    entering = [enter(policy, draft.values[slot]) for slot in inputs]
    rows = [row_of(value) for value in entering[n + m :]]
    known, body = _settle(draft, call, [*entering[: n + m], *rows])
    own = [
        leave(policy, value, atom.aval)
        for value, atom in zip(body.results[m:], call.jaxpr.outvars[m:], strict=True)
    ]
    body = agreed(body, eqn, [*known[n : n + m], *own])
    inputs = _opened_carries(draft, eqn, inputs, known)
    length = eqn.params["length"]
    results = [*known[n : n + m], *(stacked(value, length) for value in own)]
    program = body.finish(value.format for value in results)
    action = Scan(program, tuple(value.format for value in known), n, m)
    return draft.step(eqn, action, inputs, [value._replace(root=0) for value in results])


def plan_while(draft: Draft, eqn: Any, call: Call, inputs: tuple[int, ...]) -> list[int]:
    """The same, with a condition that sees the carries as the body leaves them."""
    first, n = call.num_other_consts, call.num_consts
    entering = [enter(draft.rules.policy, draft.values[slot]) for slot in inputs]
    known, body = _settle(draft, call, entering[first:])
    results = known[n:]
    body = agreed(body, eqn, results)
    inputs = (*inputs[:first], *_opened_carries(draft, eqn, inputs[first:], known))
    ((jaxpr, consts),) = call.others
    condition = draft.body(jaxpr, consts, [*entering[:first], *results])
    operands = tuple(value.format for value in (*entering[:first], *known))
    programs = condition.finish([None]), body.finish(value.format for value in results)
    action = While(*programs, operands, first, n)
    return draft.step(eqn, action, inputs, [value._replace(root=0) for value in results])


def _settle(draft: Draft, call: Call, entering: list[Value]) -> tuple[list[Value], Body]:
    """The operands of a body, in which no carry changes its kind any more, and its plan."""
    policy = draft.rules.policy
    n, m = call.num_consts, call.num_carry
    linear = linear_carries(call.jaxpr, n, m)
    carries = entering[n : n + m]
    first_counts = Counter(draft.rules.counts)
    while True:
        # Each attempt names the body's ops anew.
        draft.rules.counts.clear()
        draft.rules.counts.update(first_counts)
        known = [*entering[:n], *carries, *entering[n + m :]]
        body = draft.body(call.jaxpr, call.consts, known)
        after = [
            carry(policy, before, value, is_linear=is_linear)
            for before, value, is_linear in zip(carries, body.results[:m], linear, strict=True)
        ]
        if [(v.kind, v.format, v.data, v.stored_as) for v in after] == [
            (v.kind, v.format, v.data, v.stored_as) for v in carries
        ]:
            return known, body
        carries = after


def _opened_carries(
    draft: Draft, eqn: Any, inputs: tuple[int, ...], known: list[Value]
) -> tuple[int, ...]:
    """Slots of the operands, weights opened that a body does not hand on as they were."""
    return tuple(
        opened(draft, eqn, slot) if value.stored_as is None else slot
        for slot, value in zip(inputs, known, strict=True)
    )
