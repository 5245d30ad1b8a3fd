"""A traced function without what it need not do: dead steps, and converts that change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex_core

from precis.formats import BFLOAT16, FLOAT32, FloatFormat, cast_to
from precis.walk import equations
from precis.walk.kinds import format_of, low_format_of

# An equation, and what to read for its operands.
_Step: TypeAlias = tuple[Any, tuple[Any, ...]]

_NARROW = frozenset({np.dtype(jnp.bfloat16), np.dtype(np.float16)})


class Straight(NamedTuple):
    """Steps to run one after the other.

    Attributes:
        steps: Those that matter.
        inputs: Variables of the arguments.
        outputs: What to read for the results.
        constants: Arrays of the variables that are known.
        needed: Which arguments are read at all.
        widened: Variables that are a bfloat16 value in float32.
    """

    steps: tuple[_Step, ...]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    constants: dict[Any, Any]
    needed: frozenset[int]
    widened: frozenset[Any]

    def __call__(self, arguments: Sequence[Any], *, pinned: bool = False) -> list[Any]:
        """The results.

        Args:
            arguments: One for each input; what is not needed may be anything.
            pinned: Let no rounding be left out, whatever the compiler is allowed. Else that is so
                for what leaves and what is summed, in bfloat16, where it takes one op: XLA's CPU
                would sum what was there before the rounding, whether it is allowed to or not.
        """
        env = dict(zip(self.inputs, arguments, strict=True)) | self.constants

        def read(atom: Any) -> Any:
            return atom.val if _is_literal(atom) else env[atom]

        for eqn, atoms in self.steps:
            operands = [read(atom) for atom in atoms]
            fmt = _rounds_to(eqn)
            if not (pinned or (fmt == BFLOAT16 and eqn.outvars[0] in self.outputs)):
                fmt = None
            if eqn.primitive.name == "reduce_sum" and atoms[0] in self.widened:
                operands = [lax.reduce_precision(operands[0], 8, 7)]
            results = _pinned(eqn, operands, fmt) if fmt else equations.rebind(eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in self.outputs]


def simplified(closed: Any, same_as: Sequence[int] | None = None) -> Straight:
    """What `closed`, a closed jaxpr, computes, bit for bit.

    A 16-bit value is widened at most once, and stays what it was if it is narrowed again. What is
    narrowed and then widened was rounded, and is left alone.

    Args:
        closed: Without effects.
        same_as: For each argument, one that is the same array and is read in its place.
    """
    inputs = tuple(closed.jaxpr.invars)
    steps: list[_Step] = []
    instead: dict[Any, Any] = {}
    if same_as is not None:
        instead = {var: inputs[i] for var, i in zip(inputs, same_as, strict=True)}
    wide: dict[Any, Any] = {}
    narrow: dict[tuple[Any, Any], Any] = {}

    def read(atom: Any) -> Any:
        return atom if _is_literal(atom) else instead.get(atom, atom)

    for eqn in closed.jaxpr.eqns:
        atoms = tuple(map(read, eqn.invars))
        if eqn.primitive.name == "convert_element_type" and not _is_literal(atoms[0]):
            (source,), (out,) = atoms, eqn.outvars
            if (source, out.aval.dtype) in narrow:
                instead[out] = narrow[source, out.aval.dtype]
                continue
            if source.aval.dtype in _NARROW and out.aval.dtype == np.float32:
                if source in wide:
                    instead[out] = wide[source]
                    continue
                wide[source] = out
                narrow[out, source.aval.dtype] = source
        steps.append((eqn, atoms))
    outputs = tuple(map(read, closed.jaxpr.outvars))
    live, wanted = _live(steps, outputs)
    constants = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    needed = frozenset(i for i, var in enumerate(inputs) if var in wanted)
    return Straight(live, inputs, outputs, constants, needed, _widened(live))


def _widened(steps: Sequence[_Step]) -> frozenset[Any]:
    """The variables that are a bfloat16 value in float32."""
    converts = [
        (eqn, atoms) for eqn, atoms in steps if eqn.primitive.name == "convert_element_type"
    ]
    return frozenset(
        eqn.outvars[0]
        for eqn, (atom,) in converts
        if atom.aval.dtype == BFLOAT16.dtype and eqn.outvars[0].aval.dtype == np.float32
    )


def _rounds_to(eqn: Any) -> FloatFormat | None:
    """The format of 16 bits that an equation rounds floats to, if that is what it does.

    All other ops compute in float32; cotangents of several uses are added as they are.
    """
    if eqn.primitive.name not in ("convert_element_type", "add_any"):
        return None
    return low_format_of(eqn.outvars[0].aval.dtype) if format_of(eqn.invars[0].aval.dtype) else None


def _pinned(eqn: Any, operands: list[Any], fmt: FloatFormat) -> list[Any]:
    if eqn.primitive.name == "add_any":
        operands = equations.rebind(eqn, [cast_to(x, FLOAT32) for x in operands])
    return [cast_to(operands[0], fmt)]


def _live(steps: Sequence[_Step], outputs: Sequence[Any]) -> tuple[tuple[_Step, ...], set[Any]]:
    """The steps that outputs depend on, and all that is read."""
    wanted = {atom for atom in outputs if not _is_literal(atom)}
    live = []
    for eqn, atoms in reversed(steps):
        if not wanted.isdisjoint(eqn.outvars):
            live.append((eqn, atoms))
            wanted.update(atom for atom in atoms if not _is_literal(atom))
    return tuple(reversed(live)), wanted


def _is_literal(atom: Any) -> bool:
    return isinstance(atom, jex_core.Literal)
