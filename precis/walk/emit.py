"""`emit`: computes a planned program on arrays."""

from __future__ import annotations

import functools
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from precis.formats import FloatFormat, Format
from precis.ops import MatrixOp, matrix_op
from precis.quant import Stored, open_stored, recast
from precis.walk import equations, noise
from precis.walk.elementwise import run, run_region, spread
from precis.walk.emit_calls import Emit, emit_call
from precis.walk.environment import Environment
from precis.walk.hlo import mark_of
from precis.walk.kinds import Kind, Value
from precis.walk.move import is_wide, move, rounded
from precis.walk.program import (
    Call,
    Cast,
    Cond,
    CustomJvp,
    Follow,
    Multiply,
    Opaque,
    Open,
    Program,
    Rearrange,
    Remat,
    Run,
    Scan,
    ShardMap,
    Step,
    While,
)
from precis.walk.regions import gather, regions_of
from precis.walk.stored import follow


def emit(
    program: Program,
    arguments: list[Array],
    *,
    forward_mode: bool = False,
    key: Array | None = None,
    pinned: bool | None = None,
) -> list[Array]:
    """The results of `program` on `arguments`, each in the format that was planned for it.

    Args:
        program: What to compute.
        arguments: One array for each input, in the format that the plan has for it.
        forward_mode: Use JAX's own derivative rules throughout, so that `jax.jvp` works.
        key: [] random key, which stochastic roles need.
        pinned: Do each rounding, whatever the compiler may leave out. By default so where nothing
            is traced, and so in the bodies of loops there, which JAX compiles by themselves.
    """
    # Outside of bodies, what is not jitted is compiled op by op, and so are converts.
    strict = bool(pinned)
    if pinned is None:
        pinned = not equations.is_traced()
    run_body = functools.partial(emit, pinned=pinned)
    env = Environment(program, fork=not forward_mode, strict=strict)
    env.write(program.inputs, arguments)
    regions: dict[int, tuple[int, ...]] = {} if forward_mode else regions_of(program)
    inside = frozenset(chain.from_iterable(regions.values()))
    for index, step in enumerate(program.steps):
        if index in regions:
            members = [program.steps[i] for i in regions[index]]
            stretch = gather(program, members, env, strict=strict)
            env.write(step.outputs, [run_region(*stretch, pinned=pinned)])
        if index in inside:
            continue
        # Of a value that one call takes twice, differentiation adds the first cotangent first.
        is_call = isinstance(step.action, Call)
        order = step.inputs[::-1] if is_call else step.inputs
        arrays = [env.read(slot) for slot in order]
        arrays = arrays[::-1] if is_call else arrays
        how: Any = {"forward_mode": forward_mode, "key": key, "strict": strict}
        results = perform(program, step, arrays, run_body, **how)
        env.write(step.outputs, results)
    return [
        leaving(env.read(slot), program.values[slot], fmt, forward_mode=forward_mode, strict=strict)
        for slot, fmt in program.outputs
    ]


def leaving(
    array: Any,
    value: Value,
    fmt: FloatFormat | None,
    *,
    forward_mode: bool = False,
    strict: bool = False,
) -> Any:
    """A result of a program, brought to the format in which it leaves; see `perform`."""
    if value.stored_as is None:
        return move(array, value, fmt, forward_mode=forward_mode, pinned=True, strict=strict)
    return array if fmt is None else recast(array, fmt.carrier)


def perform(
    program: Program,
    step: Step,
    arrays: list[Any],
    emit: Emit,
    *,
    forward_mode: bool = False,
    key: Array | None = None,
    strict: bool = False,
) -> list[Any]:
    """The results of one step on its operands.

    Args:
        program: The program that it is a step of.
        step: What to compute.
        arrays: Its operands, in the formats of their slots.
        emit: What computes the bodies inside it.
        forward_mode: Use JAX's own derivative rules throughout.
        key: [] random key, which stochastic roles need.
        strict: Do each rounding, as `move` does then.
    """
    eqn, known = step.eqn, [program.values[slot] for slot in step.inputs]

    def brought(formats: Any) -> list[Any]:
        return [
            move(array, value, fmt, forward_mode=forward_mode, pinned=True, strict=strict)
            for array, value, fmt in zip(arrays, known, formats, strict=True)
        ]

    def all_in(fmt: FloatFormat) -> list[Any]:
        return brought([fmt] * len(arrays))

    match step.action:
        case Run(work):
            if eqn.primitive.name in equations.ELEMENTWISE and not is_wide(work):
                arrays = [
                    spread(array, value, eqn.outvars[0].aval.shape, forward_mode)
                    for array, value in zip(arrays, known, strict=True)
                ]
            return run(eqn, all_in(work), work, forward_mode, strict=strict)
        case Rearrange(out):
            if out is None:
                return equations.rebind(eqn, arrays)
            return _rearrange(eqn, all_in(out), out, forward_mode, strict=strict)
        case Cast(out):
            return all_in(out)
        case Follow():
            return [follow(eqn, arrays)]
        case Open():
            return [open_stored(arrays[0])]
        case Multiply(roles, site):
            op = MatrixOp(eqn.primitive, eqn.params, *arrays[2:])
            formats = roles.lhs.format, roles.rhs.format
            sides = zip(arrays[:2], known[:2], formats, strict=True)
            lhs, rhs = (_operand(*side, forward_mode) for side in sides)
            of_op: dict[str, Any] = {"roles": roles, "forward_mode": forward_mode}
            if key is not None and noise.takes_key(step.action):
                of_op["noise"] = noise.of_site(key, site)
            # The audit finds the op in the compiled program by this name.
            with jax.named_scope(mark_of(site.path)):
                return [matrix_op(op, lhs, rhs, **of_op)]
        case Opaque(operands, outs, _):
            results = equations.rebind(eqn, brought(operands))
            pairs = zip(results, outs, strict=True)
            how = {"pinned": True, "strict": strict}
            return [rounded(result, fmt, forward_mode, **how) for result, fmt in pairs]
        case Remat():
            return emit_call(eqn, step.action, arrays, emit, forward_mode=forward_mode, key=key)
        case Scan() | Cond() | While() | CustomJvp() | ShardMap():
            operands = brought(step.action.operands)
            return emit_call(eqn, step.action, operands, emit, forward_mode=forward_mode, key=key)


def _operand(array: Any, value: Value, fmt: Format, forward_mode: bool) -> Array | Stored:
    """An operand as it comes: the op casts it itself, but only here do constants saturate."""
    if value.stored_as is not None:
        return array
    free = value.kind is Kind.FREE and isinstance(fmt, FloatFormat)
    array = move(array, value, fmt, forward_mode=forward_mode) if free else array
    return array if isinstance(array, Array) else jnp.asarray(array)


def _rearrange(
    eqn: Any, arrays: list[Any], out: FloatFormat, forward_mode: bool, *, strict: bool
) -> list[Any]:
    if eqn.primitive.name in equations.SUMMED_BACKWARD:
        return run(eqn, arrays, out, forward_mode, strict=strict)
    return equations.rebind(eqn, arrays)
