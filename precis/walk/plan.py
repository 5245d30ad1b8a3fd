"""`plan`: decides for every equation of a program in which format it runs.

Pure Python over the jaxpr; nothing is computed. `emit` carries it out, `audit` reads it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

from precis.formats import FloatFormat
from precis.policy import Policy
from precis.walk import equations
from precis.walk.carries import linear_carries
from precis.walk.handover import hand_over
from precis.walk.islands import Pins, Rules
from precis.walk.kinds import Kind, Value, carried, format_of
from precis.walk.program import Program, Remat, Scan, Step
from precis.walk.rules import decide


@dataclass(slots=True)
class _Draft:
    """A program in the making."""

    rules: Rules
    slots: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    steps: list[Step] = field(default_factory=list)
    values: dict[int, Value] = field(default_factory=dict)
    constants: dict[int, Any] = field(default_factory=dict)

    def add(self, value: Value) -> int:
        slot = next(self.slots)
        self.values[slot] = value if value.root else replace(value, root=slot)
        return slot

    def fresh_body(self) -> _Draft:
        return _Draft(self.rules, self.slots)


def plan(jaxpr: Any, arguments: list[Value], policy: Policy, *, pins: Pins = "respect") -> Program:
    """The program that computes `jaxpr` under `policy`.

    Args:
        jaxpr: A closed jaxpr, traced with float arguments of float32 or wider.
        arguments: What is known of each of its inputs.
        policy: The formats.
        pins: Whether casts to low precision inside the program are kept or overruled.

    Raises:
        NotImplementedError: A value that the policy governs reaches a higher-order primitive
            that the walker does not enter; the message names it.
    """
    draft = _Draft(Rules(policy, pins))
    inputs = tuple(draft.add(value) for value in arguments)
    outputs = _body(draft, jaxpr.jaxpr, jaxpr.consts, inputs)
    formats = [
        _output_format(draft.values[slot], atom.aval, policy)
        for slot, atom in zip(outputs, jaxpr.jaxpr.outvars, strict=True)
    ]
    return _finish(draft, inputs, list(zip(outputs, formats, strict=True)))


def _finish(
    draft: _Draft, inputs: tuple[int, ...], outputs: list[tuple[int, FloatFormat | None]]
) -> Program:
    program = Program(inputs, tuple(draft.steps), tuple(outputs), draft.values, draft.constants)
    return hand_over(program, draft.rules.policy)


def _output_format(value: Value, aval: Any, policy: Policy) -> FloatFormat | None:
    """Rule 8: what derives from parameters or state keeps its storage, the rest goes to o or s."""
    declared = format_of(aval.dtype)
    if declared is None:
        return None
    if value.kind is Kind.FREE:
        return declared
    if value.kind is Kind.WEIGHT and not aval.ndim:
        return value.format  # a loss of parameters alone stays as it was computed
    if value.is_neutral or (value.kind is Kind.ISLAND and value.stored):
        return value.stored or value.format
    return policy.output if aval.ndim else policy.sensitive


def _body(draft: _Draft, jaxpr: Any, consts: Any, inputs: tuple[int, ...]) -> list[int]:
    env: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        # An array from outside the function, such as a batch that it closes over, is data.
        env[var] = _constant(draft, const, var.aval, data=var.aval.ndim > 0)

    def read(atom: Any) -> int:
        if isinstance(atom, jex_core.Literal):
            return _constant(draft, atom.val, atom.aval)
        return env[atom]

    for eqn in jaxpr.eqns:
        slots = _equation(draft, eqn, tuple(read(atom) for atom in eqn.invars))
        env.update(zip(eqn.outvars, slots, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _constant(draft: _Draft, array: Any, aval: Any, *, data: bool = False) -> int:
    fmt = format_of(aval.dtype)
    slot = draft.add(Value(Kind.FREE if fmt else Kind.DISCRETE, fmt, data=data))
    draft.constants[slot] = array if isinstance(array, jax.Array) else np.asarray(array, aval.dtype)
    return slot


def _equation(draft: _Draft, eqn: Any, inputs: tuple[int, ...]) -> list[int]:
    """Plans one equation and returns the slots of its results."""
    call = equations.call_of(eqn)
    if call is not None:
        return _CALLS[call.kind](draft, eqn, call, inputs)
    action, values = decide(draft.rules, eqn, [draft.values[slot] for slot in inputs])
    outputs = [draft.add(value) for value in values]
    draft.steps.append(Step(eqn, action, inputs, tuple(outputs)))
    return outputs


def _inline(draft: _Draft, eqn: Any, call: equations.Call, inputs: tuple[int, ...]) -> list[int]:
    del eqn
    return _body(draft, call.jaxpr, call.consts, inputs)


def _remat(draft: _Draft, eqn: Any, call: equations.Call, inputs: tuple[int, ...]) -> list[int]:
    body = draft.fresh_body()
    slots = tuple(body.add(draft.values[slot]) for slot in inputs)
    outs = _body(body, call.jaxpr, call.consts, slots)
    program = _finish(body, slots, [(slot, body.values[slot].format) for slot in outs])
    outputs = [draft.add(body.values[slot]) for slot in outs]
    draft.steps.append(Step(eqn, Remat(program), inputs, tuple(outputs)))
    return outputs


def _scan(draft: _Draft, eqn: Any, call: equations.Call, inputs: tuple[int, ...]) -> list[int]:
    """Rules 5 and 7: islands end at the door, carries settle by fixpoint."""
    n, m = call.num_consts, call.num_carry
    linear = linear_carries(call.jaxpr, n, m)
    entering = [_enter(draft, draft.values[slot]) for slot in inputs]
    carry = entering[n : n + m]
    while True:
        body = draft.fresh_body()
        known = [*entering[:n], *carry, *entering[n + m :]]
        slots = tuple(body.add(value) for value in known)
        outs = _body(body, call.jaxpr, call.consts, slots)
        after = [
            _carry(draft.rules.policy, before, body.values[slot], is_linear=is_linear)
            for before, slot, is_linear in zip(carry, outs[:m], linear, strict=True)
        ]
        if [(v.kind, v.format, v.data) for v in after] == [
            (v.kind, v.format, v.data) for v in carry
        ]:
            break
        carry = after
    stacked = [
        _leave(draft, body.values[slot], atom.aval)
        for slot, atom in zip(outs[m:], call.jaxpr.outvars[m:], strict=True)
    ]
    results = [*carry, *stacked]
    ends = [(slot, value.format) for slot, value in zip(outs, results, strict=True)]
    program = _finish(body, slots, ends)
    outputs = [draft.add(replace(value, root=0)) for value in results]
    operands = tuple(value.format for value in known)
    draft.steps.append(Step(eqn, Scan(program, operands, n, m), inputs, tuple(outputs)))
    return outputs


def _enter(draft: _Draft, value: Value) -> Value:
    if value.kind is Kind.ISLAND and not value.absorbs:
        return Value(Kind.POLICY, draft.rules.policy.activation, paths=value.paths, data=value.data)
    return replace(value, fresh=False)


def _leave(draft: _Draft, value: Value, aval: Any) -> Value:
    if value.kind is Kind.ISLAND and aval.ndim:
        return _enter(draft, value)
    return replace(value, fresh=False, sources=frozenset())


def _carry(policy: Policy, before: Value, after: Value, *, is_linear: bool) -> Value:
    value = carried(before, after)
    if value.kind is Kind.POLICY and is_linear:
        value = replace(value, kind=Kind.ISLAND, absorbs=True)
    match value.kind:
        case Kind.POLICY:
            return replace(value, format=policy.activation)
        case Kind.ISLAND:
            return replace(value, format=policy.sensitive)
        case _:
            # Stored in few bits and updated: as wide as the update is, or it would be lost.
            return replace(value, format=after.format or before.format)


_CALLS: dict[str, Callable[..., list[int]]] = {
    "inline": _inline,
    "remat": _remat,
    "scan": _scan,
}
