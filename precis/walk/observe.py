"""`observed`: the same function under a policy, with what was read at its matrix ops on the way.

Readings are results like any other: a scan stacks them, `jax.checkpoint` and jit pass them on.
Nothing is written anywhere, and the function stays pure.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from precis.ops import Roles
from precis.policy import Policy, PolicyRules, read_policy
from precis.walk.autocast import trace
from precis.walk.emit import emit, leaving, perform
from precis.walk.environment import Environment
from precis.walk.kinds import Kind, Value
from precis.walk.program import Cond, CustomJvp, Multiply, Program, Remat, Scan, Site, Step
from precis.walk.stored import PASSED


class Layout(NamedTuple):
    """Where in a parameter the axes of a matrix op's operand come from.

    Attributes:
        stacked: The parameter's axes along which the loops around the op run, outermost first;
            None for a loop whose iterations all see the same.
        axes: The parameter's axis for each axis of the operand.
    """

    stacked: tuple[int | None, ...]
    axes: tuple[int, ...]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["seen"], meta_fields=["site", "layout"]
)
@dataclass(frozen=True, slots=True)
class Reading:
    """What was read at one matrix op.

    Attributes:
        seen: Arrays, with one more axis in front for each scan around the op, outermost first;
            zeros where the op is in a branch that was not taken.
        site: The op.
        layout: Where its kernel's axes come from; None if it has none, or if that is more than
            a parameter with its axes in another order.
    """

    seen: Any
    site: Site
    layout: Layout | None


class Product(NamedTuple):
    """A matrix op as it is computed.

    Attributes:
        site: The op.
        roles: Its formats, and which operand is a weight.
        params: Its parameters, such as `dimension_numbers`.
        lhs: The first operand, before the op casts it.
        rhs: The second one.
        out: The result.
    """

    site: Site
    roles: Roles
    params: Mapping[str, Any]
    lhs: Any
    rhs: Any
    out: Array

    @property
    def has_one_weight(self) -> bool:
        """Whether one operand comes from parameters, and the other does not."""
        return self.roles.lhs.is_weight != self.roles.rhs.is_weight


Look: TypeAlias = Callable[[Product], Any]
"""From a matrix op to a tree of arrays: what is read of it."""


def observed(
    fn: Callable[..., Any], policy: PolicyRules | Policy | str, look: Look
) -> Callable[..., tuple[Any, tuple[Reading, ...]]]:
    """`fn` as `autocast` computes it, and a reading of each of its matrix ops, in program order.

    >>> import jax.numpy as jnp
    >>> call = observed(lambda w, x: x @ w, "f32", lambda op: jnp.max(op.lhs))
    >>> out, (reading,) = call(jnp.ones((2, 3)), jnp.ones((5, 2)))
    >>> reading.site.primitive, float(reading.seen), reading.layout.axes
    ('dot_general', 1.0, (0, 1))

    Ops inside a `while_loop` whose trips nobody knows, a `shard_map`, or a function with a
    derivative rule of its own are not read.

    Args:
        fn: A function whose first argument holds its parameters.
        policy: A policy, rules by path, or the text of either; nothing stochastic.
        look: What to read. It is traced, and its results have the same shapes for the same op.
    """
    policies = read_policy(policy)

    def call(*args: Any, **kwargs: Any) -> tuple[Any, tuple[Reading, ...]]:
        traced = trace(fn, args, kwargs, policies)
        program = traced.program
        pairs = zip(program.inputs, traced.arrays, strict=True)
        layouts = [_whole(program.values[slot], array) for slot, array in pairs]
        *results, readings = _observe(program, traced.arrays, look, layouts)
        return jax.tree.unflatten(traced.out_tree, results), readings

    return call


def _whole(value: Value, array: Any) -> Layout | None:
    is_parameter = value.kind is Kind.WEIGHT and value.stored_as is None
    return Layout((), tuple(range(jnp.ndim(array)))) if is_parameter else None


def _observe(
    program: Program, arguments: list[Any], look: Look, layouts: Sequence[Layout | None]
) -> list[Any]:
    """The results of `program`, and after them all readings, as one tuple."""
    env = Environment(program, fork=False)
    env.write(program.inputs, arguments)
    known = dict(zip(program.inputs, layouts, strict=True))
    readings: list[Reading] = []
    for step in program.steps:
        arrays = [env.read(slot) for slot in step.inputs]
        own = [known.get(slot) for slot in step.inputs]
        match step.action:
            case Multiply(roles, site):
                results = perform(program, step, arrays, emit)
                lhs, rhs = arrays[:2]
                op = Product(site, roles, step.eqn.params, lhs, rhs, results[0])
                layout = own[0 if roles.lhs.is_weight else 1] if op.has_one_weight else None
                readings.append(Reading(look(op), site, layout))
            case Scan() | Remat() | Cond() | CustomJvp() as call:
                *results, inside = perform(program, step, arrays, _inside(call, look, own))
                readings += inside
            case _:
                results = perform(program, step, arrays, emit)
        env.write(step.outputs, results)
        known.update(zip(step.outputs, _followed(step, own), strict=True))
    outputs = [leaving(env.read(slot), program.values[slot], fmt) for slot, fmt in program.outputs]
    return [*outputs, tuple(readings)]


def _inside(
    action: Scan | Remat | Cond | CustomJvp, look: Look, own: list[Layout | None]
) -> Callable[..., list[Any]]:
    """What computes the bodies of a step, given what is known of its operands."""
    match action:
        case Scan():
            n, first = action.num_consts, action.num_consts + action.num_carry
            layouts = [_looped(x, None) for x in own[:n]]
            layouts += [None] * action.num_carry
            layouts += [_looped(x, 0) for x in own[first:]]
        case Cond(branches):
            return _branch(branches, look, own[1:])
        case _:
            layouts = own
    return lambda body, arrays, **_: _observe(body, arrays, look, layouts)


def _looped(layout: Layout | None, axis: int | None) -> Layout | None:
    """A parameter as one iteration sees it: all of it, or an entry along its first axis."""
    if layout is None or axis is None:
        return layout and layout._replace(stacked=(*layout.stacked, None))
    return Layout((*layout.stacked, layout.axes[0]), layout.axes[1:])


def _branch(
    branches: tuple[Program, ...], look: Look, layouts: list[Layout | None]
) -> Callable[..., list[Any]]:
    """What computes one branch, and gives zeros as the readings of all others."""

    def run(body: Program, arrays: list[Any], **_: Any) -> list[Any]:
        def readings_of(branch: Program, *xs: Any) -> tuple[Reading, ...]:
            return _observe(branch, list(xs), look, layouts)[-1]

        *results, taken = _observe(body, arrays, look, layouts)
        every = []
        for branch in branches:
            shapes = jax.eval_shape(functools.partial(readings_of, branch), *arrays)
            zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
            every.append(taken if branch is body else zeros)
        return [*results, tuple(chain.from_iterable(every))]

    return run


def _followed(step: Step, own: list[Layout | None]) -> list[Layout | None]:
    """Where the axes of a step's results come from."""
    layout = own[0] if own else None
    if layout is None or len(step.outputs) != 1:
        return [None] * len(step.outputs)
    eqn = step.eqn
    match eqn.primitive.name:
        case "transpose":
            axes = tuple(layout.axes[axis] for axis in eqn.params["permutation"])
            return [layout._replace(axes=axes)]
        case "squeeze":
            gone = eqn.params["dimensions"]
            axes = tuple(axis for i, axis in enumerate(layout.axes) if i not in gone)
            return [layout._replace(axes=axes)]
        case name if name in PASSED or name == "convert_element_type":
            return [layout]
        case _:
            return [None]
