"""Computes the steps that have bodies, each by JAX's own public transformation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec

from precis.walk import equations, noise
from precis.walk.move import narrow, widen
from precis.walk.program import Call, Cond, CustomJvp, Program, Remat, Scan, ShardMap, While

Emit: TypeAlias = Callable[..., list[Any]]


def emit_call(
    eqn: Any,
    action: Call,
    arrays: list[Any],
    emit: Emit,
    *,
    forward_mode: bool,
    key: Array | None,
) -> list[Any]:
    """The results of `action` on `arrays`, which are in the formats that it wants.

    Args:
        eqn: The equation that the step stands for.
        action: Its bodies.
        arrays: The operands.
        emit: What computes a program on arrays.
        forward_mode: Use JAX's own derivative rules throughout.
        key: [] random key, which stochastic roles need.
    """
    key = key if key is not None and noise.takes_key(action) else None

    def run(body: Program, key: Array | None = key) -> Callable[..., list[Any]]:
        return lambda *xs: emit(body, list(xs), forward_mode=forward_mode, key=key)

    match action:
        case Remat(body):
            return jax.checkpoint(run(body), **equations.remat_options(eqn))(*arrays)
        case Scan():
            return _scan(eqn, action, arrays, run, forward_mode, key)
        case Cond(branches):
            return _cond(eqn, [run(branch) for branch in branches], arrays)
        case While():
            return _while(action, arrays, run, key)
        case ShardMap(body):
            return _shard_map(eqn, body, arrays, run, key)
        case CustomJvp():
            call = _forward_rule(action, run) if forward_mode else _reverse_rule(action, run)
            return list(call(key, *arrays))


# A derivative rule, and what runs on devices, must be handed what it reads: there the key is an
# operand. It is None, which is no array at all, where nothing is stochastic.


def _reverse_rule(action: CustomJvp, run: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    count = len(action.results)

    def forwards(key: Array | None, *operands: Any) -> tuple[list[Any], tuple[Any, list[Any]]]:
        results = run(action.reverse()[0], key)(*operands)
        return results[:count], (key, results[count:])

    def backwards(saved: tuple[Any, list[Any]], cotangents: list[Any]) -> tuple[Any, ...]:
        key, kept = saved
        floats = [ct for ct, fmt in zip(cotangents, action.results, strict=True) if fmt]
        back = run(action.reverse()[1], noise.of_backward(key, action.number))
        grads = iter(back(*kept, *floats))
        return None, *(next(grads) if fmt else None for fmt in action.operands)

    call = jax.custom_vjp(lambda key, *operands: run(action.primal, key)(*operands))
    call.defvjp(forwards, backwards)
    return call


def _forward_rule(action: CustomJvp, run: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    count = len(action.results)

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        key, *operands = primals
        floats = [t for t, fmt in zip(tangents[1:], action.operands, strict=True) if fmt]
        results = run(action.forward(), key)(*operands, *floats)
        dots = iter(results[count:])
        pairs = list(zip(results[:count], action.results, strict=True))
        return results[:count], [
            next(dots) if fmt else np.zeros(out.shape, jax.dtypes.float0) for out, fmt in pairs
        ]

    call = jax.custom_jvp(lambda key, *operands: run(action.primal, key)(*operands))
    call.defjvp(rule)
    return call


def _scan(
    eqn: Any,
    action: Scan,
    arrays: list[Any],
    run: Callable[..., Any],
    forward_mode: bool,
    key: Array | None,
) -> list[Any]:
    body, n, m = action.body, action.num_consts, action.num_carry
    consts, init, xs = arrays[:n], arrays[n : n + m], arrays[n + m :]
    # What every iteration sees whole collects a cotangent from each: in float32, rounded once.
    formats = [body.values[slot].format for slot in body.inputs[:n]]
    wide = [widen(x, fmt, forward_mode) for x, fmt in zip(consts, formats, strict=True)]

    def step(carry: list[Any], trip_and_x: tuple[Any, list[Any]]) -> tuple[list[Any], list[Any]]:
        trip, x = trip_and_x
        own = [narrow(x, fmt, forward_mode) for x, fmt in zip(wide, formats, strict=True)]
        results = run(body, noise.of_trip(key, trip))(*own, *carry, *x)
        return results[:m], results[m:]

    options = equations.scan_options(eqn)
    trips = None if key is None else jnp.arange(options["length"], dtype=np.uint32)
    carry, stacked = lax.scan(step, init, (trips, xs), **options)
    return [*carry, *stacked]


def _while(
    action: While, arrays: list[Any], run: Callable[..., Any], key: Array | None
) -> list[Any]:
    first, n = action.num_condition_consts, action.num_consts
    seen, own, init = arrays[:first], arrays[first : first + n], arrays[first + n :]

    def condition(state: tuple[Any, list[Any]]) -> Any:
        trip, carry = state
        return run(action.condition, noise.of_trip(key, trip))(*seen, *carry)[0]

    def body(state: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        trip, carry = state
        following = None if trip is None else trip + np.uint32(1)
        return following, run(action.body, noise.of_trip(key, trip))(*own, *carry)

    trip = None if key is None else jnp.uint32(0)
    return lax.while_loop(condition, body, (trip, init))[1]


def _shard_map(
    eqn: Any, body: Program, arrays: list[Any], run: Callable[..., Any], key: Array | None
) -> list[Any]:
    options = equations.shard_map_options(eqn)
    if key is None:
        return jax.shard_map(run(body), **options)(*arrays)

    def on_device(key: Array, *xs: Any) -> list[Any]:
        # Where JAX knows along which axes values vary, each op draws for these alone.
        own = key if options["check_vma"] else noise.of_device(key, options["axis_names"])
        return run(body, own)(*xs)

    options["in_specs"] = (PartitionSpec(), *options["in_specs"])
    return jax.shard_map(on_device, **options)(key, *arrays)


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
