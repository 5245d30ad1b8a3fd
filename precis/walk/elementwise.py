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


def run(eqn: Any, arrays: list[Any], work: FloatFormat, forward_mode: bool) -> list[Any]:
    """One op in `work`: in float32 and rounded once, unless its own dtype does just that.

    XLA would run most ops on a 16-bit dtype as several, each with a rounding of its own, and
    on CPU it contracts a float16 multiplication and addition to one with no rounding between.
    """
    if is_wide(work) or (work.is_native and equations.never_rounds(eqn)):
        return equations.rebind(eqn, arrays)
    results = equations.rebind(eqn, [widen(array, work, forward_mode) for array in arrays])
    return [rounded(result, work, forward_mode) for result in results]


def spread(array: Any, value: Value, shape: tuple[int, ...], forward_mode: bool) -> Any:
    """An operand broadcast to the result's shape before it is brought to a narrow format.

    Left to the op, its cotangent would be summed in that format.
    """
    if value.format is None or value.kind is Kind.FREE or array.shape == shape:
        return array
    wide = widen(jnp.asarray(array), value.format, forward_mode)
    return move(jnp.broadcast_to(wide, shape), FLOAT32, value.format, forward_mode=forward_mode)


def run_region(region: Region, operands: Sequence[Array]) -> Array:
    """The result of `region`; of its operands it keeps what its derivative needs, as they are."""
    shapes = tuple(equations.shape_of(jax.typeof(x)) for x in operands)
    return _rule(region, shapes)(*operands)


class _Op(NamedTuple):
    """What a member binds."""

    primitive: Any
    params: dict[str, Any]


class _Traced(NamedTuple):
    """A region and its derivative.

    Attributes:
        forward: From operands to the result.
        backward: From operands and the result's cotangent to those of the float operands.
        is_float: Which operands are.
    """

    forward: Straight
    backward: Straight
    is_float: tuple[bool, ...]


def _traced(region: Region, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> _Traced:
    is_float = tuple(jnp.issubdtype(shape.dtype, jnp.floating) for shape in shapes)
    forward = jax.make_jaxpr(lambda *xs: _compute(region, xs))(*shapes)

    def pull(cotangent: Array, *operands: Array) -> Sequence[Array]:
        def of_floats(*floats: Array) -> Array:
            given = iter(floats)
            pairs = zip(operands, is_float, strict=True)
            return _compute(region, [next(given) if f else x for x, f in pairs])

        floats = (x for x, f in zip(operands, is_float, strict=True) if f)
        return jax.vjp(of_floats, *floats)[1](cotangent)

    out = equations.shape_of(forward.jaxpr.outvars[0].aval)
    backward = jax.make_jaxpr(pull)(out, *shapes)
    same_as = region.same_as
    # The backward pass takes the cotangent first.
    after_it = (0, *(i + 1 for i in same_as))
    return _Traced(simplified(forward, same_as), simplified(backward, after_it), is_float)


@functools.lru_cache(maxsize=1024)
def _rule(region: Region, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> Callable[..., Array]:
    traced = _traced(region, shapes)
    kept = sorted(i - 1 for i in traced.backward.needed if i)
    forward_once: Any = jax.jit(lambda *xs: traced.forward(xs)[0])

    def forward(*operands: Array) -> tuple[Any, dict[int, Array]]:
        return forward_once(*operands), {i: operands[i] for i in kept}

    @jax.jit
    def backward(saved: dict[int, Array], cotangent: Array) -> tuple[Array | None, ...]:
        operands = (saved.get(i) for i in range(len(shapes)))
        grads = iter(traced.backward((cotangent, *operands)))
        return tuple(next(grads) if f else None for f in traced.is_float)

    call = jax.custom_vjp(forward_once)
    call.defvjp(forward, backward)
    return jax.jit(call, inline=True)


def _compute(region: Region, operands: Sequence[Any]) -> Array:
    arrays = list(operands)
    for member in region.members:
        brought = []
        for place, value, forks in member.reads:
            if isinstance(place, Scalar):
                array = place.array
            elif forks and value.format:
                array, arrays[place] = fork(arrays[place], value.format)
            else:
                array = arrays[place]
            array = spread(array, value, member.shape, False)
            brought.append(move(array, value, member.work if value.format else None))
        arrays.extend(run(_Op(member.primitive, dict(member.params)), brought, member.work, False))
    return arrays[-1]
