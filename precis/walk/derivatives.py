"""Plans a function with a `jvp` rule of its own: the function, and what differentiates it.

A matrix op under a policy is differentiated by its own rule, in reverse. So the user's rule is
traced as JAX would run it in reverse mode: a forward pass that keeps what it needs, and a
backward pass on that. Each is a program like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from precis.walk import equations
from precis.walk.doors import chosen, enter
from precis.walk.draft import Draft
from precis.walk.kinds import Kind, Value, format_of
from precis.walk.program import CustomJvp


def plan_custom_jvp(
    draft: Draft, eqn: Any, call: equations.Call, inputs: tuple[int, ...]
) -> list[int]:
    """Rule 9: a custom_jvp with a matrix op inside is rebuilt; islands end at its door."""
    policy = draft.rules.policy
    operands = [enter(policy, draft.values[slot]) for slot in inputs]
    count = len(eqn.outvars)
    traced = _differentiate(eqn)

    primal = draft.body(call.jaxpr, call.consts, operands)
    forward = draft.body(traced.forward.jaxpr, traced.forward.consts, operands)
    tangents = [_cotangent(value) for value in operands if value.format]
    pushed = draft.body(traced.pushed.jaxpr, traced.pushed.consts, [*operands, *tangents])

    same = zip(primal.results, forward.results[:count], pushed.results[:count], strict=True)
    results = [
        chosen(draft.rules, list(values), var.aval, by_data=False)
        for values, var in zip(same, eqn.outvars, strict=True)
    ]
    formats = [value.format for value in results]
    floats = [fmt for fmt in formats if fmt]
    saved = [replace(value, fresh=False) for value in forward.results[count:]]
    cotangents = [_cotangent(value) for value in results if value.format]
    backward = draft.body(traced.backward.jaxpr, traced.backward.consts, [*saved, *cotangents])
    governed = [value for value in operands if value.format]
    weights = [i for i, value in enumerate(governed) if value.kind is Kind.WEIGHT]
    action = CustomJvp(
        primal=primal.finish(formats),
        forward=forward.finish([*formats, *(value.format for value in saved)]),
        # The gradient of a parameter leaves the accumulator unrounded.
        backward=backward.finish([value.format for value in governed], unrounded=weights),
        pushed=pushed.finish([*formats, *floats]),
        operands=tuple(value.format for value in operands),
        results=tuple(formats),
    )
    return draft.step(eqn, action, inputs, results)


def _cotangent(value: Value) -> Value:
    """Cotangents between ops, and tangents, follow the format of what they belong to."""
    kind = Kind.ISLAND if value.kind is Kind.ISLAND else Kind.POLICY
    return Value(kind, value.format, data=True)


class _Derivatives(NamedTuple):
    """Closed jaxprs of a function with a rule, over float operands `x` and results `y`.

    Attributes:
        forward: Operands to results and what `backward` needs of them.
        backward: That and the cotangents of `y` to those of `x`.
        pushed: Operands and tangents of `x` to results and tangents of `y`.
    """

    forward: Any
    backward: Any
    pushed: Any


def _differentiate(eqn: Any) -> _Derivatives:
    shapes = [equations.shape_of(atom.aval) for atom in eqn.invars]
    is_in, is_out = (
        [format_of(atom.aval.dtype) is not None for atom in atoms]
        for atoms in (eqn.invars, eqn.outvars)
    )

    def on_floats(operands: Sequence[Any]) -> Any:
        """The function of its float operands alone, its other results on the side."""

        def call(*floats: Any) -> tuple[list[Any], list[Any]]:
            results = equations.rebind(eqn, _merge(is_in, floats, operands))
            return _pick(is_out, results), _pick([not keep for keep in is_out], results)

        return call

    def forward(*operands: Any) -> tuple[list[Any], Any]:
        call, floats = on_floats(operands), _pick(is_in, operands)
        out, pull, rest = jax.vjp(call, *floats, has_aux=True)
        return _interleave(is_out, out, rest), pull

    def pushed(operands: list[Any], tangents: list[Any]) -> tuple[list[Any], list[Any]]:
        call, floats = on_floats(operands), _pick(is_in, operands)
        out, dots, rest = jax.jvp(call, floats, tangents, has_aux=True)
        return _interleave(is_out, out, rest), dots

    traced, (_, pull) = jax.make_jaxpr(forward, return_shape=True)(*shapes)
    saved, tree = jax.tree.flatten(pull)
    kept = [var.aval for var in traced.jaxpr.outvars[len(eqn.outvars) :]]
    assert len(saved) == len(kept)
    backward = jax.make_jaxpr(lambda saved, cts: jax.tree.unflatten(tree, saved)(cts))
    outs = [equations.shape_of(var.aval) for var in eqn.outvars]
    return _Derivatives(
        traced,
        backward([equations.shape_of(aval) for aval in kept], _pick(is_out, outs)),
        jax.make_jaxpr(pushed)(shapes, _pick(is_in, shapes)),
    )


def _pick(chosen: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    return [value for value, keep in zip(values, chosen, strict=True) if keep]


def _merge(chosen: Sequence[Any], new: Sequence[Any], old: Sequence[Any]) -> list[Any]:
    given = iter(new)
    return [next(given) if keep else x for keep, x in zip(chosen, old, strict=True)]


def _interleave(chosen: Sequence[Any], yes: Sequence[Any], no: Sequence[Any]) -> list[Any]:
    given, others = iter(yes), iter(no)
    return [next(given) if keep else next(others) for keep in chosen]
