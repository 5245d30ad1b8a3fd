"""Islands: stretches of a program that run in the sensitive format, from first op to last."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple, TypeAlias

from precis.formats import FloatFormat
from precis.policy import Policy, PolicyRules
from precis.walk import equations
from precis.walk.kinds import Kind, Value, format_of, join, low_format_of

Pins: TypeAlias = Literal["respect", "override"]

# What keeps an island going; anything else ends it.
_CONTINUE = equations.ELEMENTWISE | equations.REDUCTIONS | equations.LAYOUT | equations.COLLECTIVES

# With neutral operands these leave a value what it was, for the question what an island is made
# of: `(x - 0) * rsqrt(mean(x**2))` is one normalization.
_AFFINE = frozenset({"add", "div", "mul", "neg", "sub"})


class Rules(NamedTuple):
    """What every decision depends on beside the equation.

    Attributes:
        policies: The policy at each path.
        pins: Whether casts to low precision inside the program are kept or overruled.
        counts: How many matrix ops have had each name so far: a path, or what stands before the
            number of one that no parameter reaches.
        unnamed_as: What an op is called in its module that no parameter reaches, before its number.
    """

    policies: PolicyRules
    pins: Pins
    counts: Counter[str]
    unnamed_as: str = "@dot"

    @property
    def policy(self) -> Policy:
        """The policy where no rule says otherwise, and of all that belongs to no path."""
        return self.policies.base

    def numbered(self, name: str) -> int:
        """How many have had this name before, counting one more."""
        self.counts[name] += 1
        return self.counts[name] - 1

    def restarted(self, counts: Counter[str]) -> Rules:
        """The same, counting from `counts` on: for what is planned a second time."""
        return self._replace(counts=Counter(counts))

    def backward(self) -> Rules:
        """The same for a backward pass, whose ops must not be taken for those after it."""
        return self._replace(counts=Counter(), unnamed_as="@grad")


def place(rules: Rules, eqn: Any, values: list[Value]) -> tuple[FloatFormat, Value]:
    """The format that an op on `values` computes in, and the value that comes out.

    An opener starts an island. An island goes on with neutral values, with other islands, and
    with the very values that it was computed from (`x - max(x)`); with any other policy value
    the op is the policy's.
    """
    floats = [value for value in values if value.format]
    name, joined = eqn.primitive.name, join(floats)
    if joined.is_neutral:
        work = next(fmt for var in eqn.outvars if (fmt := format_of(var.aval.dtype)))
        return work, joined._replace(format=work)
    governed = [value for value in floats if not value.is_neutral]
    roots = frozenset(value.root for value in governed if value.kind is Kind.POLICY)
    started = len(roots) == 0 or joined.sources or joined.absorbs
    continues = started and name in _CONTINUE and (joined.absorbs or roots <= joined.sources)
    pin = pin_of(rules, eqn)
    if equations.opens_island(eqn) or _meets_statistics(eqn, floats) or continues:
        work = pin or rules.policy.sensitive
        return work, joined._replace(
            kind=Kind.ISLAND,
            format=work,
            sources=joined.sources | roots,
            paths=joined.paths[:1],
            stored=joined.stored if joined.stored and _averages(eqn, values) else None,
        )
    work = pin or rules.policy.activation
    alone = len(governed) == 1
    return work, Value(
        kind=Kind.POLICY,
        format=work,
        root=governed[0].root if alone and name in _AFFINE else 0,
        paths=joined.paths[:1],
        data=joined.data,
        fresh=alone and governed[0].fresh and name in equations.ELEMENTWISE,
    )


def pin_of(rules: Rules, eqn: Any) -> FloatFormat | None:
    """The low precision that the program itself asks for here, if it does."""
    if rules.pins == "override":
        return None
    for atom in (*eqn.outvars, *eqn.invars):
        if fmt := low_format_of(atom.aval.dtype):
            return fmt
    return None


def _meets_statistics(eqn: Any, floats: list[Value]) -> bool:
    """Whether the op adds to, or subtracts, a running statistic.

    Such a sum runs in the sensitive format, in evaluation as in training: in the activation
    format, a small update would vanish, and a mean of large values cancel.
    """
    return eqn.primitive.name in ("add", "sub") and any(v.kind is Kind.STATE for v in floats)


def _averages(eqn: Any, values: list[Value]) -> bool:
    """Whether a result that derives from state is a statistic still: a sum, or a multiple.

    It then has the statistic's shape; data that is centered by it has its own.
    """
    shape = eqn.outvars[0].aval.shape
    pairs = zip(eqn.invars, values, strict=True)
    keeps_shape = all(atom.aval.shape == shape for atom, value in pairs if value.stored)
    match eqn.primitive.name:
        case "mul" | "div":
            return keeps_shape and all(v.kind is Kind.FREE or v.stored for v in values)
        case name:
            return (keeps_shape and name in ("add", "sub")) or name in equations.LAYOUT


def depends_on_data(eqn: Any, values: list[Value]) -> bool:
    """Whether the result depends on data, where some operand does.

    A parameter that is masked or perturbed, element by element, is a parameter still. One that
    scales a batch is not.
    """
    if not any(value.data for value in values):
        return False
    shape = eqn.outvars[0].aval.shape if eqn.outvars else ()
    pairs = list(zip(eqn.invars, values, strict=True))
    is_own = any(
        value.kind is Kind.WEIGHT and not value.data and atom.aval.shape == shape
        for atom, value in pairs
    )
    others_free = all(v.kind in (Kind.FREE, Kind.DISCRETE) for v in values if v.data)
    return not (is_own and others_free and eqn.primitive.name in equations.ELEMENTWISE)
