"""What a plan is made of: a flat list of steps over numbered slots, decided but not computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from precis.formats import FloatFormat
from precis.ops import Roles
from precis.walk.kinds import Value


class Site(NamedTuple):
    """One matrix op of the program.

    Attributes:
        path: The parameter that flows into it, the nearest of several; `<module>/@dot<k>` if none
            does directly.
        others: Further parameters that flow into it: LoRA's A and B beside the weight.
        rule: The pattern of the last rule that matches the path.
        primitive: `dot_general` or `conv_general_dilated`.
        scope: The name stack at which it was traced.
        lhs: Shape of the first operand.
        rhs: Shape of the second operand.
        flops: Floating-point operations of one call: two for each multiply-add.
        pinned: The format that the model itself asked for, where that overrules the policy.
        number: How many ops before it have the same path.
    """

    path: str
    others: tuple[str, ...]
    rule: str | None
    primitive: str
    scope: str
    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    flops: int
    pinned: str | None
    number: int


class Run(NamedTuple):
    """Compute in `work`: operands are brought there, the result is rounded to it once."""

    work: FloatFormat


class Rearrange(NamedTuple):
    """Move elements and change no bit; operands are first brought to `out`."""

    out: FloatFormat | None


class Cast(NamedTuple):
    """A cast of the program itself, from float to float, turned into one to `out`."""

    out: FloatFormat


class Follow(NamedTuple):
    """Move the codes and scales of a weight in few bits, the first operand, as the op says."""


class Open(NamedTuple):
    """Dequantize a weight in few bits, for an op that cannot take it.

    Attributes:
        paths: The parameters that it is.
    """

    paths: tuple[str, ...]


class Multiply(NamedTuple):
    """A matrix op under `roles`."""

    roles: Roles
    site: Site


class Opaque(NamedTuple):
    """Bound as it is: operands in their declared formats, one rounding of each result.

    `flops` counts the matrix ops inside, on which the policy has no hold.
    """

    operands: tuple[FloatFormat | None, ...]
    outs: tuple[FloatFormat | None, ...]
    flops: int


class Remat(NamedTuple):
    """A `jax.checkpoint` around a body."""

    body: Program


class Scan(NamedTuple):
    """A `lax.scan` over a body, its operands first brought to `operands`."""

    body: Program
    operands: tuple[FloatFormat | None, ...]
    num_consts: int
    num_carry: int


class Cond(NamedTuple):
    """One of several bodies, its operands first brought to `operands`; the first one chooses."""

    branches: tuple[Program, ...]
    operands: tuple[FloatFormat | None, ...]


class While(NamedTuple):
    """A `lax.while_loop`, its operands first brought to `operands`.

    They are what only the condition sees whole, what only the body does, and the carries.
    """

    condition: Program
    body: Program
    operands: tuple[FloatFormat | None, ...]
    num_condition_consts: int
    num_consts: int


class CustomJvp(NamedTuple):
    """A function with a derivative rule of its own, rebuilt; operands first brought to `operands`.

    Its derivatives are planned when they are wanted: a rule may call the function again.

    Attributes:
        primal: The function.
        reverse: Plans two programs: the function and what its backward pass needs; from that
            and cotangents to those of the float operands.
        forward: Plans one, from operands and tangents to results and tangents.
        operands: A format for each operand.
        results: A format for each result.
        number: How many such functions come before it.
    """

    primal: Program
    reverse: Callable[[], tuple[Program, Program]]
    forward: Callable[[], Program]
    operands: tuple[FloatFormat | None, ...]
    results: tuple[FloatFormat | None, ...]
    number: int


class ShardMap(NamedTuple):
    """A `jax.shard_map` of a body, its operands first brought to `operands`."""

    body: Program
    operands: tuple[FloatFormat | None, ...]


Call: TypeAlias = Remat | Scan | Cond | While | CustomJvp | ShardMap
Action: TypeAlias = Run | Rearrange | Cast | Follow | Open | Multiply | Opaque | Call


def bodies(action: Action) -> tuple[Program, ...]:
    """The programs inside a step, in the order in which an audit counts them."""
    match action:
        case Remat(body) | Scan(body) | ShardMap(body):
            return (body,)
        case Cond(branches):
            return branches
        case While(condition, body):
            return condition, body
        case CustomJvp(primal):
            return (primal,)
        case _:
            return ()


class Step(NamedTuple):
    """One equation, what to do with it, and the slots that it reads and fills."""

    eqn: Any
    action: Action
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A function under a policy, decided but not computed.

    Attributes:
        inputs: Slots of the arguments.
        steps: In order.
        outputs: Slots of the results, each with the format that it leaves in.
        values: What is known of each slot.
        constants: Slots whose array is known.
    """

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[tuple[int, FloatFormat | None], ...]
    values: dict[int, Value]
    constants: dict[int, Any]
