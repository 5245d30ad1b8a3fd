"""Which carries of a loop accumulate: their update is linear in themselves."""

from __future__ import annotations

from typing import Any

from jax.extend import core as jex_core

from precis.walk import equations

# How a value depends on a carry: not at all, in proportion, or in another way.
_NONE, _LINEAR, _OTHER = 0, 1, 2

_LINEAR_OPS = equations.LAYOUT | frozenset(
    {"add", "add_any", "convert_element_type", "neg", "reduce_sum", "sub"}
)


def linear_carries(jaxpr: Any, num_consts: int, num_carry: int) -> list[bool]:
    """For each carry, whether its next value is linear in it by arithmetic and layout alone.

    A sum, an exponential moving average and flash attention's accumulator are; a residual
    stream is not, since its blocks depend on it in other ways. Matrix ops do not count: a
    recurrent state that passes through a kernel is an activation.
    """
    return [
        _dependence(jaxpr, {jaxpr.invars[num_consts + i]: _LINEAR})[i] == _LINEAR
        for i in range(num_carry)
    ]


def _dependence(jaxpr: Any, known: dict[Any, int]) -> list[int]:
    def read(atom: Any) -> int:
        return _NONE if isinstance(atom, jex_core.Literal) else known.get(atom, _NONE)

    for eqn in jaxpr.eqns:
        degrees = [read(atom) for atom in eqn.invars]
        if not any(degrees):
            continue
        call = equations.call_of(eqn)
        if call is not None and call.kind == "inline":
            inner = dict(zip(call.jaxpr.invars, degrees, strict=True))
            known.update(zip(eqn.outvars, _dependence(call.jaxpr, inner), strict=True))
        elif call is not None and call.kind == "cond" and degrees[0] == _NONE:
            # Linear whichever branch runs, such as a step that is taken or skipped.
            branches = [call.jaxpr, *(jaxpr for jaxpr, _ in call.others)]
            each = [
                _dependence(body, dict(zip(body.invars, degrees[1:], strict=True)))
                for body in branches
            ]
            known.update(zip(eqn.outvars, map(max, *each, [_NONE] * len(each[0])), strict=True))
        else:
            known.update(dict.fromkeys(eqn.outvars, _degree(eqn, degrees)))
    return [read(atom) for atom in jaxpr.outvars]


def _degree(eqn: Any, degrees: list[int]) -> int:
    if _OTHER in degrees:
        return _OTHER
    match eqn.primitive.name:
        case name if name in _LINEAR_OPS:
            return _LINEAR
        case "mul":
            return _LINEAR if sum(degrees) == _LINEAR else _OTHER
        case "div":
            return _LINEAR if degrees[1] == _NONE else _OTHER
        case "select_n":
            return _LINEAR if degrees[0] == _NONE else _OTHER
        case _:
            return _OTHER
