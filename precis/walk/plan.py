"""`plan`: decides for every equation of a program in which format it runs.

Pure Python over the jaxpr; nothing is computed. `emit` carries it out, `audit` reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

from precis.formats import FloatFormat
from precis.ops import MATRIX_OPS
from precis.policy import Policy, PolicyRules
from precis.walk import equations
from precis.walk.branches import plan_cond
from precis.walk.derivatives import plan_custom_jvp
from precis.walk.doors import enter, leave
from precis.walk.draft import Draft
from precis.walk.islands import Pins, Rules
from precis.walk.kinds import Kind, Value, format_of
from precis.walk.loops import plan_scan, plan_while
from precis.walk.program import Program, Remat, ShardMap
from precis.walk.rules import decide
from precis.walk.stored import plan_follow, ready


def plan(
    jaxpr: Any, arguments: list[Value], policies: PolicyRules, *, pins: Pins = "respect"
) -> Program:
    """The program that computes `jaxpr` under `policies`.

    Args:
        jaxpr: A closed jaxpr, traced with float arguments of float32 or wider.
        arguments: What is known of each of its inputs.
        policies: The formats, by path.
        pins: Whether casts to low precision inside the program are kept or overruled.

    Raises:
        NotImplementedError: A value that the policy governs reaches a higher-order primitive
            that the walker does not enter; the message names it.
    """
    rules = Rules(policies, pins, Counter())
    body = Draft(rules, _body).body(jaxpr.jaxpr, jaxpr.consts, arguments)
    return body.finish(
        _output_format(value, atom.aval, rules.policy)
        for value, atom in zip(body.results, jaxpr.jaxpr.outvars, strict=True)
    )


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


def _body(draft: Draft, jaxpr: Any, consts: Any, inputs: tuple[int, ...]) -> list[int]:
    env: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        # An array from outside the function, such as a batch that it closes over, is data.
        env[var] = _constant(draft, const, var.aval, data=var.aval.ndim > 0)

    def read(atom: Any) -> int:
        if isinstance(atom, jex_core.Literal):
            return _constant(draft, atom.val, atom.aval)
        return env[atom]

    for eqn in chain.from_iterable(map(equations.parts_of, jaxpr.eqns)):
        slots = _equation(draft, eqn, tuple(read(atom) for atom in eqn.invars))
        env.update(zip(eqn.outvars, slots, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _constant(draft: Draft, array: Any, aval: Any, *, data: bool = False) -> int:
    fmt = format_of(aval.dtype)
    slot = draft.add(Value(Kind.FREE if fmt else Kind.DISCRETE, fmt, data=data))
    draft.constants[slot] = array if isinstance(array, jax.Array) else np.asarray(array, aval.dtype)
    return slot


def _equation(draft: Draft, eqn: Any, inputs: tuple[int, ...]) -> list[int]:
    """Plans one equation and returns the slots of its results."""
    call = equations.call_of(eqn)
    known = [draft.values[slot] for slot in inputs]
    if any(value.stored_as is not None for value in known):
        if call is None:
            keeps_dtype = draft.rules.pins == "override"
            followed = plan_follow(draft, eqn, inputs, keeps_dtype=keeps_dtype)
            if followed is not None:
                return followed
        inputs = ready(draft, eqn, call, inputs)
        known = [draft.values[slot] for slot in inputs]
    if call is not None and _is_entered(eqn, call, known):
        return _CALLS[call.kind](draft, eqn, call, inputs)
    action, values = decide(draft.rules, eqn, known)
    return draft.step(eqn, action, inputs, values)


def _is_entered(eqn: Any, call: equations.Call, known: list[Value]) -> bool:
    """What draws random numbers is left as it is, and so is a rule without a matrix op inside."""
    if call.kind in ("inline", "remat", "scan") or equations.contains(eqn, MATRIX_OPS):
        return True
    if call.kind == "custom_jvp":
        return False
    return any(value.kind not in (Kind.FREE, Kind.DISCRETE) for value in known)


def _inline(draft: Draft, eqn: Any, call: equations.Call, inputs: tuple[int, ...]) -> list[int]:
    del eqn
    return _body(draft, call.jaxpr, call.consts, inputs)


def _remat(draft: Draft, eqn: Any, call: equations.Call, inputs: tuple[int, ...]) -> list[int]:
    body = draft.body(call.jaxpr, call.consts, [draft.values[slot] for slot in inputs])
    program = body.finish(value.format for value in body.results)
    return draft.step(eqn, Remat(program), inputs, body.results)


def _shard_map(draft: Draft, eqn: Any, call: equations.Call, inputs: tuple[int, ...]) -> list[int]:
    policy = draft.rules.policy
    operands = [enter(policy, draft.values[slot]) for slot in inputs]
    body = draft.body(call.jaxpr, call.consts, operands)
    results = [
        leave(policy, value, var.aval)._replace(root=0)
        for value, var in zip(body.results, eqn.outvars, strict=True)
    ]
    program = body.finish(value.format for value in results)
    action = ShardMap(program, tuple(value.format for value in operands))
    return draft.step(eqn, action, inputs, results)


_CALLS: dict[str, Callable[..., list[int]]] = {
    "inline": _inline,
    "remat": _remat,
    "scan": plan_scan,
    "cond": plan_cond,
    "while": plan_while,
    "custom_jvp": plan_custom_jvp,
    "shard_map": _shard_map,
}
