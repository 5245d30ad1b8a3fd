"""Plans a function with a `jvp` rule of its own: the function, and what differentiates it.

A matrix op under a policy is differentiated by its own rule, in reverse. So the user's rule is
traced as JAX would run it in reverse mode: a forward pass that keeps what it needs, and a
backward pass on that. Each is a program like any other.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax

from precis.walk import equations
from precis.walk.doors import enter
from precis.walk.draft import Draft
from precis.walk.kinds import Kind, Value, format_of
from precis.walk.program import CustomJvp, Program


def plan_custom_jvp(
    draft: Draft, eqn: Any, call: equations.Call, inputs: tuple[int, ...]
) -> list[int]:
    """Rule 9: a custom_jvp with a matrix op inside is rebuilt; islands end at its door."""
    operands = [enter(draft.rules.policy, draft.values[slot]) for slot in inputs]
    number = draft.rules.numbered("@custom_jvp")
    # The rule calls the function again: its ops keep their names.
    first_counts = Counter(draft.rules.counts)

    def anew() -> Draft:
        return replace(draft, rules=draft.rules.restarted(first_counts))

    body = draft.body(call.jaxpr, call.consts, operands)
    results = [value._replace(root=0, fresh=False, sources=frozenset()) for value in body.results]
    formats = tuple(value.format for value in results)
    action = CustomJvp(
        primal=body.finish(formats),
        reverse=functools.cache(lambda: _reverse(anew(), eqn, operands, results)),
        forward=functools.cache(lambda: _forward(anew(), eqn, operands, results)),
        operands=tuple(value.format for value in operands),
        results=formats,
        number=number,
    )
    return draft.step(eqn, action, inputs, results)


def _reverse(
    draft: Draft, eqn: Any, operands: list[Value], results: list[Value]
) -> tuple[Program, Program]:
    forward, backward = _trace_reverse(eqn)
    there = draft.body(forward.jaxpr, forward.consts, operands)
    saved = [value._replace(fresh=False) for value in there.results[len(results) :]]
    cotangents = [_cotangent(value) for value in results if value.format]
    reversed_draft = replace(draft, rules=draft.rules.backward())
    back = reversed_draft.body(backward.jaxpr, backward.consts, [*saved, *cotangents])
    floats = [value for value in operands if value.format]
    weights = [i for i, value in enumerate(floats) if value.kind is Kind.WEIGHT]
    return (
        there.finish(value.format for value in (*results, *saved)),
        # The gradient of a parameter leaves the accumulator unrounded.
        back.finish([value.format for value in floats], unrounded=weights),
    )


def _forward(draft: Draft, eqn: Any, operands: list[Value], results: list[Value]) -> Program:
    traced = _trace_forward(eqn)
    tangents = [_cotangent(value) for value in operands if value.format]
    body = draft.body(traced.jaxpr, traced.consts, [*operands, *tangents])
    formats = [value.format for value in results]
    return body.finish([*formats, *(fmt for fmt in formats if fmt)])


def _cotangent(value: Value) -> Value:
    """Cotangents between ops, and tangents, follow the format of what they belong to."""
    kind = Kind.ISLAND if value.kind is Kind.ISLAND else Kind.POLICY
    return Value(kind, value.format, data=True)


def _trace_reverse(eqn: Any) -> tuple[Any, Any]:
    """Closed jaxprs: operands to results and residuals; residuals and cotangents to cotangents."""
    shapes, _, is_out = _signature(eqn)

    def forward(*operands: Any) -> tuple[list[Any], Any]:
        floats, call = _on_floats(eqn, operands)
        out, pull, rest = jax.vjp(call, *floats, has_aux=True)
        return _interleave(is_out, out, rest), pull

    traced, (_, pull) = jax.make_jaxpr(forward, return_shape=True)(*shapes)
    tree = jax.tree.structure(pull)
    kept = [equations.shape_of(atom.aval) for atom in traced.jaxpr.outvars[len(is_out) :]]
    outs = [equations.shape_of(var.aval) for var in eqn.outvars]
    backward = jax.make_jaxpr(lambda saved, cts: jax.tree.unflatten(tree, saved)(cts))
    return traced, backward(kept, _pick(is_out, outs))


def _trace_forward(eqn: Any) -> Any:
    """A closed jaxpr: operands and tangents to results and tangents, of floats both."""
    shapes, is_in, is_out = _signature(eqn)

    def push(operands: list[Any], tangents: list[Any]) -> tuple[list[Any], list[Any]]:
        floats, call = _on_floats(eqn, operands)
        out, dots, rest = jax.jvp(call, floats, tangents, has_aux=True)
        return _interleave(is_out, out, rest), dots

    return jax.make_jaxpr(push)(shapes, _pick(is_in, shapes))


def _signature(eqn: Any) -> tuple[list[jax.ShapeDtypeStruct], list[bool], list[bool]]:
    """Operands of an equation, and which of them and of its results are floats."""
    shapes = [equations.shape_of(atom.aval) for atom in eqn.invars]
    is_in = [format_of(atom.aval.dtype) is not None for atom in eqn.invars]
    return shapes, is_in, [format_of(var.aval.dtype) is not None for var in eqn.outvars]


def _on_floats(eqn: Any, operands: Sequence[Any]) -> tuple[list[Any], Callable[..., Any]]:
    """The float operands, and the function of them alone, its other results on the side."""
    _, is_in, is_out = _signature(eqn)

    def call(*floats: Any) -> tuple[list[Any], list[Any]]:
        given = iter(floats)
        merged = [next(given) if f else x for f, x in zip(is_in, operands, strict=True)]
        results = equations.rebind(eqn, merged)
        return _pick(is_out, results), _pick([not keep for keep in is_out], results)

    return _pick(is_in, operands), call


def _pick(chosen: Sequence[bool], values: Sequence[Any]) -> list[Any]:
    return [value for value, keep in zip(values, chosen, strict=True) if keep]


def _interleave(chosen: Sequence[bool], yes: Sequence[Any], no: Sequence[Any]) -> list[Any]:
    given, others = iter(yes), iter(no)
    return [next(given) if keep else next(others) for keep in chosen]
