"""Computes the steps that have bodies, each by JAX's own public transformation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax import lax

from precis.walk import equations
from precis.walk.move import narrow, widen
from precis.walk.program import Call, Cond, CustomJvp, Program, Remat, Scan, ShardMap, While

Emit: TypeAlias = Callable[..., list[Any]]


def emit_call(
    eqn: Any, action: Call, arrays: list[Any], emit: Emit, *, forward_mode: bool
) -> list[Any]:
    """The results of `action` on `arrays`, which are in the formats that it wants.

    Args:
        eqn: The equation that the step stands for.
        action: Its bodies.
        arrays: The operands.
        emit: What computes a program on arrays.
        forward_mode: Use JAX's own derivative rules throughout.
    """

    def run(body: Program) -> Callable[..., list[Any]]:
        return lambda *xs: emit(body, list(xs), forward_mode=forward_mode)

    match action:
        case Remat(body):
            return jax.checkpoint(run(body), **equations.remat_options(eqn))(*arrays)
        case Scan():
            return _scan(eqn, action, arrays, run(action.body), forward_mode)
        case Cond(branches):
            return _cond(eqn, [run(branch) for branch in branches], arrays)
        case While(condition, body):
            first, n = action.num_condition_consts, action.num_consts
            seen, own, init = arrays[:first], arrays[first : first + n], arrays[first + n :]
            return lax.while_loop(
                lambda carry: run(condition)(*seen, *carry)[0],
                lambda carry: run(body)(*own, *carry),
                init,
            )
        case ShardMap(body):
            return jax.shard_map(run(body), **equations.shard_map_options(eqn))(*arrays)
        case CustomJvp():
            call = _forward_rule(action, run) if forward_mode else _reverse_rule(action, run)
            return list(call(*arrays))


def _reverse_rule(action: CustomJvp, run: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    count = len(action.results)

    def forwards(*operands: Any) -> tuple[list[Any], list[Any]]:
        results = run(action.reverse()[0])(*operands)
        return results[:count], results[count:]

    def backwards(saved: list[Any], cotangents: list[Any]) -> tuple[Any, ...]:
        floats = [ct for ct, fmt in zip(cotangents, action.results, strict=True) if fmt]
        grads = iter(run(action.reverse()[1])(*saved, *floats))
        return tuple(next(grads) if fmt else None for fmt in action.operands)

    call = jax.custom_vjp(run(action.primal))
    call.defvjp(forwards, backwards)
    return call


def _forward_rule(action: CustomJvp, run: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    count = len(action.results)

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        floats = [t for t, fmt in zip(tangents, action.operands, strict=True) if fmt]
        results = run(action.forward())(*primals, *floats)
        dots = iter(results[count:])
        pairs = list(zip(results[:count], action.results, strict=True))
        return results[:count], [
            next(dots) if fmt else np.zeros(out.shape, jax.dtypes.float0) for out, fmt in pairs
        ]

    call = jax.custom_jvp(run(action.primal))
    call.defjvp(rule)
    return call


def _scan(
    eqn: Any, action: Scan, arrays: list[Any], run: Callable[..., list[Any]], forward_mode: bool
) -> list[Any]:
    body, n, m = action.body, action.num_consts, action.num_carry
    consts, init, xs = arrays[:n], arrays[n : n + m], arrays[n + m :]
    # What every iteration sees whole collects a cotangent from each: in float32, rounded once.
    formats = [body.values[slot].format for slot in body.inputs[:n]]
    wide = [widen(x, fmt, forward_mode) for x, fmt in zip(consts, formats, strict=True)]

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        own = [narrow(x, fmt, forward_mode) for x, fmt in zip(wide, formats, strict=True)]
        results = run(*own, *carry, *x)
        return results[:m], results[m:]

    carry, stacked = lax.scan(step, init, xs, **equations.scan_options(eqn))
    return [*carry, *stacked]


def _cond(eqn: Any, branches: Sequence[Callable[..., list[Any]]], arrays: list[Any]) -> list[Any]:
    index, *operands = arrays
    platforms = equations.platforms_of(eqn)
    if platforms is None:
        return lax.switch(index, branches, *operands)
    # The compiler chooses, and must never see what is meant for another platform.
    default = None
    named: dict[str, Any] = {}
    for names, branch in zip(platforms, branches, strict=True):
        if names is None:
            default = branch
        else:
            named |= dict.fromkeys(names, branch)
    return lax.platform_dependent(*operands, default=default, **named)
