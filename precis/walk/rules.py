"""The rules: for one equation, the format that it computes in and what comes out of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from precis.formats import FLOAT32, FloatFormat
from precis.ops import MATRIX_OPS
from precis.walk import equations
from precis.walk.flops import matrix_flops_inside
from precis.walk.islands import Rules, depends_on_data, pin_of, place
from precis.walk.kinds import Kind, Value, format_of, join
from precis.walk.matrix import plan_matrix
from precis.walk.program import Action, Cast, Opaque, Rearrange, Run


def decide(rules: Rules, eqn: Any, values: list[Value]) -> tuple[Action, list[Value]]:
    """What to do with one equation, and what is then known of its results.

    Raises:
        NotImplementedError: The equation carries a body that the walker cannot enter, and a
            value that the policy governs flows into it.
    """
    name = eqn.primitive.name
    floats = [value for value in values if value.format]
    declared = [format_of(var.aval.dtype) for var in eqn.outvars]
    is_known = name in equations.KNOWN
    if name in MATRIX_OPS and floats:
        return plan_matrix(rules, eqn, values)
    if not is_known and (equations.is_opaque_call(eqn) or equations.bodies_of(eqn)):
        return _opaque(rules, eqn, values, declared)
    if not is_known and any(declared) and not join(floats).is_neutral:
        return _as_declared(rules, eqn, values, declared)
    if name == "convert_element_type" and floats and declared[0]:
        return _cast(rules, eqn, values[0], declared[0])
    if name in equations.LAYOUT:
        return _layout(rules, eqn, values)
    return _compute(rules, eqn, values, declared)


def _cast(
    rules: Rules, eqn: Any, value: Value, declared: FloatFormat
) -> tuple[Action, list[Value]]:
    """A cast to low precision pins; one to float32 or wider hands the value back to the policy."""
    dtype = np.dtype(eqn.outvars[0].aval.dtype)
    if dtype != declared.dtype and rules.pins == "respect":
        raise NotImplementedError(
            f"the program casts to {dtype} at {equations.scope_of(eqn) or 'top level'}, which is "
            "not supported; pass pins='override' to let the policy decide instead"
        )
    if value.is_neutral:
        out = value.format if rules.pins == "override" else declared
    elif pin_of(rules, eqn) == declared:
        out, value = declared, value._replace(kind=Kind.POLICY, root=0, fresh=False)
    elif value.kind is Kind.POLICY:
        out = rules.policy.activation
    else:
        out = value.format
    assert out is not None
    return Cast(out), [value._replace(format=out)]


def _layout(rules: Rules, eqn: Any, values: list[Value]) -> tuple[Action, list[Value]]:
    floats = [value for value in values if value.format]
    if not floats:
        return Rearrange(None), [_discrete(eqn, values)] * len(eqn.outvars)
    if len(eqn.outvars) == len(eqn.invars) > 1:  # optimization_barrier: each passes by itself
        return Rearrange(None), values
    if len(floats) == 1 or all(value == floats[0] for value in floats):
        work, value = floats[0].format, floats[0]
    else:
        work, value = place(rules, eqn, values)
    return Rearrange(work), [_of_data(value, any(v.data for v in values))] * len(eqn.outvars)


def _compute(
    rules: Rules, eqn: Any, values: list[Value], declared: list[FloatFormat | None]
) -> tuple[Action, list[Value]]:
    floats = [value for value in values if value.format]
    data = depends_on_data(eqn, values)
    if not any(declared):
        work = next((fmt for a in eqn.invars if (fmt := format_of(a.aval.dtype))), FLOAT32)
        return Run(work), [_discrete(eqn, values)] * len(eqn.outvars)
    if not floats:
        kind = [Kind.FREE if fmt else Kind.DISCRETE for fmt in declared]
        paths = _discrete(eqn, values).paths
        out = [Value(k, fmt, paths=paths, data=data) for k, fmt in zip(kind, declared, strict=True)]
        return Run(FLOAT32), out
    work, value = place(rules, eqn, values)
    outs = [_of_data(value, data) if fmt else Value(Kind.DISCRETE, data=data) for fmt in declared]
    return Run(work), outs


def _of_data(value: Value, data: bool) -> Value:
    return value if value.data == data else value._replace(data=data)


def _discrete(eqn: Any, values: list[Value]) -> Value:
    """Integers, with the paths of the parameters whose codes they are, if that is what they are."""
    data = any(value.data for value in values)
    is_codes = not data and not any(value.format for value in values)
    keeps = is_codes and eqn.primitive.name in equations.KNOWN | equations.UNPACKING
    return Value(Kind.DISCRETE, paths=join(values).paths if keeps else (), data=data)


def _opaque(
    rules: Rules, eqn: Any, values: list[Value], declared: list[FloatFormat | None]
) -> tuple[Action, list[Value]]:
    name = eqn.primitive.name
    joined = join([value for value in values if value.format])
    if not joined.is_neutral and not equations.is_opaque_call(eqn):
        raise NotImplementedError(
            f"a value that the policy governs reaches {name!r} at "
            f"{equations.scope_of(eqn) or 'top level'}, which the walker cannot enter; it enters "
            "jit, scan, while, cond, jax.checkpoint, custom_jvp and shard_map; a jax.custom_vjp "
            "around that part runs as written"
        )
    return _as_declared(rules, eqn, values, declared)


def _as_declared(
    rules: Rules, eqn: Any, values: list[Value], declared: list[FloatFormat | None]
) -> tuple[Action, list[Value]]:
    """Rules 6 and 9: what the walker does not know runs as it was written."""
    joined = join([value for value in values if value.format])
    operands = tuple(format_of(atom.aval.dtype) for atom in eqn.invars)
    if joined.is_neutral:
        outs, kind = declared, joined.kind
    else:
        narrow = pin_of(rules, eqn) or rules.policy.activation
        outs, kind = [narrow if fmt else None for fmt in declared], Kind.POLICY
    data = any(value.data for value in values)
    paths = joined.paths if joined.is_neutral else joined.paths[:1]
    results = [
        Value(kind, fmt, paths=paths, data=data, stored=joined.stored)
        if fmt
        else Value(Kind.DISCRETE, data=data)
        for fmt in outs
    ]
    flops = 0 if joined.is_neutral else matrix_flops_inside(eqn)
    return Opaque(operands, tuple(outs), flops), results
