"""Elementwise steps in few bits: computed in float32, rounded once, differentiated by regions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from precis.formats import FLOAT32, FloatFormat
from precis.walk import equations
from precis.walk.environment import fork
from precis.walk.kinds import Kind, Value
from precis.walk.move import is_wide, move, rounded, widen
from precis.walk.regions import Region, Scalar
from precis.walk.simplify import Straight, simplified


def run(
    eqn: Any,
    arrays: list[Any],
    work: FloatFormat,
    forward_mode: bool,
    *,
    strict: bool = False,
) -> list[Any]:
    """One op in `work`: in float32 and rounded once, unless its own dtype does just that.

    XLA would run most ops on a 16-bit dtype as several, each with a rounding of its own, and
    on CPU it contracts a float16 multiplication and addition to one with no rounding between.
    """
    if is_wide(work) or (work.is_native and equations.never_rounds(eqn)):
        return equations.rebind(eqn, arrays)
    results = equations.rebind(eqn, [widen(array, work, forward_mode) for array in arrays])
    # An elementwise op stands in a region, which sees to what is summed, or in forward mode.
    pinned = eqn.primitive.name not in equations.ELEMENTWISE
    how = {"pinned": pinned, "strict": strict}
    return [rounded(result, work, forward_mode, **how) for result in results]


def spread(array: Any, value: Value, shape: tuple[int, ...], forward_mode: bool) -> Any:
    """An operand broadcast to the result's shape before it is brought to a narrow format.

    Left to the op, its cotangent would be summed in that format.
    """
    if value.format is None or value.kind is Kind.FREE or array.shape == shape:
        return array
    wide = widen(jnp.asarray(array), value.format, forward_mode)
    return move(jnp.broadcast_to(wide, shape), FLOAT32, value.format, forward_mode=forward_mode)


def run_region(region: Region, operands: Sequence[Array], *, pinned: bool) -> Array:
    """The result of `region`; of its operands it keeps what its derivative needs, as they are.

    Args:
        region: The stretch.
        operands: Its arrays.
        pinned: Round in ways that no compiler may leave out. Under `jax.jit` that is dear, and the
            caller's compiler options decide; by itself the stretch is compiled without them.
    """
    return _rule(region, tuple(map(jax.typeof, operands)), pinned)(*operands)


class _Op(NamedTuple):
    """What a member binds."""

    primitive: Any
    params: dict[str, Any]


def _forward(region: Region, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> Straight:
    """From operands to the result."""
    return simplified(jax.make_jaxpr(lambda *xs: _compute(region, xs))(*shapes), region.same_as)


def _backward(
    region: Region, shapes: tuple[jax.ShapeDtypeStruct, ...], out: jax.ShapeDtypeStruct
) -> Straight:
    """From the result's cotangent and the operands to the cotangents of those that are floats."""
    is_float = _are_floats(shapes)

    def pull(cotangent: Array, *operands: Array) -> Sequence[Array]:
        def of_floats(*floats: Array) -> Array:
            given = iter(floats)
            pairs = zip(operands, is_float, strict=True)
            return _compute(region, [next(given) if f else x for x, f in pairs])

        floats = (x for x, f in zip(operands, is_float, strict=True) if f)
        return jax.vjp(of_floats, *floats)[1](cotangent)

    backward = jax.make_jaxpr(pull)(out, *shapes)
    # The cotangent comes first.
    return simplified(backward, (0, *(i + 1 for i in region.same_as)))


def _are_floats(shapes: Sequence[jax.ShapeDtypeStruct]) -> list[bool]:
    return [jnp.issubdtype(shape.dtype, jnp.floating) for shape in shapes]


@functools.lru_cache(maxsize=1024)
def _rule(region: Region, avals: tuple[Any, ...], pinned: bool) -> Callable[..., Array]:
    shapes = tuple(map(equations.shape_of, avals))
    straight = _forward(region, shapes)
    out, is_float = equations.shape_of(straight.outputs[0].aval), _are_floats(shapes)
    # Traced when it is wanted.
    pull = functools.cache(lambda: _backward(region, shapes, out))
    forward_once: Any = jax.jit(lambda *xs: straight(xs, pinned=pinned)[0])

    def forward(*operands: Array) -> tuple[Any, dict[int, Array]]:
        kept = sorted(i - 1 for i in pull().needed if i)
        return forward_once(*operands), {i: operands[i] for i in kept}

    @jax.jit
    def backward(saved: dict[int, Array], cotangent: Array) -> tuple[Array | None, ...]:
        operands = (saved.get(i) for i in range(len(shapes)))
        grads = iter(pull()((cotangent, *operands), pinned=pinned))
        return tuple(next(grads) if f else None for f in is_float)

    call = jax.custom_vjp(forward_once)
    call.defvjp(forward, backward)
    return jax.jit(call, inline=True)


def _compute(region: Region, operands: Sequence[Any]) -> Array:
    made: list[Any] = []
    for member in region.members:
        brought = []
        for place, value, forks in member.reads:
            if isinstance(place, Scalar):
                array = place.array
            elif place < 0:
                array = operands[place]
            elif forks and value.format:
                array, made[place] = fork(made[place], value.format)
            else:
                array = made[place]
            array = spread(array, value, member.shape, False)
            brought.append(move(array, value, member.work if value.format else None))
        made += run(_Op(member.primitive, dict(member.params)), brought, member.work, False)
    return made[-1]
