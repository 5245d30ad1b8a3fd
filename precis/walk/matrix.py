"""Plans one matrix op: which operand is the kernel, and a format for every role."""

from __future__ import annotations

from typing import Any

from precis.formats import FLOAT32, FloatFormat, parse, wide_dtype
from precis.ops import Operand, Roles, multiplied_as
from precis.policy import Policy
from precis.quant import as_kernel
from precis.walk import equations
from precis.walk.flops import matrix_flops
from precis.walk.islands import Rules, pin_of
from precis.walk.kinds import Kind, Value, format_of, join
from precis.walk.program import Action, Multiply, Site

# Inputs whose scale is known beforehand, one for all of them.
_CALIBRATED = parse("int8@tensor")


def plan_matrix(rules: Rules, eqn: Any, values: list[Value]) -> tuple[Action, list[Value]]:
    """Rule 1: operands to k and c, accumulate in a, hand over in x.

    The policy is that of the op's path.

    An operand is a kernel if it comes from parameters and constants alone. What was looked up
    or computed with data, such as an embedded token, is an activation even if no policy value
    has met it yet. A product of neutral values without data stays neutral (LoRA's A@B).

    Args:
        rules: The formats.
        eqn: The equation.
        values: What is known of its two operands.
    """
    values = values[:2]  # a ragged dot has the sizes of its groups, too
    joined = join(values)
    declared = format_of(eqn.outvars[0].aval.dtype) or FLOAT32
    if joined.is_neutral and not joined.data:
        return _neutral(rules, eqn, joined, declared)
    kernels = [value.is_parameter for value in values]
    site = _site(rules, eqn, _paths(values, kernels), is_named=any(kernels))
    policy = rules.policies.at(site.path)
    pin = pin_of(rules, eqn)
    pin = None if pin in (None, policy.compute) and pin in (None, policy.kernel) else pin
    roles = _pinned_roles(eqn, kernels, declared) if pin else _roles(kernels, policy)
    stored = [i for i, value in enumerate(values) if value.stored_as is not None]
    if stored:
        roles = _stored_roles(eqn, values, stored[0], roles, policy)
        pin = None
    site = site._replace(pinned=str(pin) if pin else None)
    paths = joined.paths if not any(kernels) else (site.path,)
    out = Value(Kind.POLICY, roles.out, paths=paths[:1], data=True, fresh=pin is None)
    return Multiply(roles, site), [out]


def _neutral(
    rules: Rules, eqn: Any, joined: Value, declared: FloatFormat
) -> tuple[Action, list[Value]]:
    """A product of parameters alone: as it is written, in full precision, and counted as such."""
    operand = Operand(declared, declared, is_weight=True)
    site = _site(rules, eqn, joined.paths, is_named=bool(joined.paths))
    if declared != rules.policies.at(site.path).kernel:
        site = site._replace(pinned=str(declared))
    roles = Roles(operand, operand, declared, declared, declared, declared)
    return Multiply(roles, site), [joined._replace(format=declared)]


def _site(rules: Rules, eqn: Any, paths: tuple[str, ...], *, is_named: bool) -> Site:
    """The op named after its parameter, or as one more of the module upstream.

    Of several parameters it is the nearest: no rule changes what an op is called.
    """
    if is_named:
        path = paths[0]
    else:
        module = "".join(paths[0].rpartition("/")[:2]) if paths else ""
        name = f"{module}{rules.unnamed_as}"
        path = f"{name}{rules.numbered(name)}"
    return Site(
        path=path,
        others=tuple(p for p in paths if p != path) if is_named else (),
        rule=rules.policies.rule_at(path),
        primitive=eqn.primitive.name,
        scope=equations.scope_of(eqn),
        lhs=eqn.invars[0].aval.shape,
        rhs=eqn.invars[1].aval.shape,
        flops=matrix_flops(eqn),
        pinned=None,
        number=rules.numbered(path),
    )


def _roles(kernels: list[bool], policy: Policy) -> Roles:
    def operand(is_kernel: bool) -> Operand:
        if is_kernel:
            return Operand(policy.kernel, policy.weight_grad, is_weight=True)
        return Operand(policy.compute, policy.activation, is_weight=False)

    lhs, rhs = (operand(is_kernel) for is_kernel in kernels)
    grads = policy.grad_for_input, policy.grad_for_weight
    return Roles(lhs, rhs, policy.accum, policy.activation, *grads)


def _pinned_roles(eqn: Any, kernels: list[bool], declared: FloatFormat) -> Roles:
    """The op as the program wrote it, with the accumulator that every 16-bit product gets."""

    def operand(atom: Any, is_kernel: bool) -> Operand:
        fmt = format_of(atom.aval.dtype) or FLOAT32
        return Operand(fmt, fmt, is_weight=is_kernel)

    lhs, rhs = (operand(a, k) for a, k in zip(eqn.invars[:2], kernels, strict=True))
    wide = format_of(wide_dtype(eqn.outvars[0].aval.dtype)) or FLOAT32
    return Roles(lhs, rhs, wide, declared, declared, declared)


def _stored_roles(eqn: Any, values: list[Value], side: int, roles: Roles, policy: Policy) -> Roles:
    """With a weight in few bits: its own format, and c, or what the program pins, for the other."""
    weight = values[side].stored_as
    assert weight is not None
    kernel = as_kernel(weight)
    other = roles.rhs if side == 0 else roles.lhs
    if kernel.input_amax is not None:
        other = other._replace(format=_CALIBRATED)
    elif not isinstance(policy.compute, FloatFormat):
        other = other._replace(format=policy.compute)
    fmt = multiplied_as(eqn.primitive.name, eqn.params, weight, side, other.format)
    own = Operand(fmt, policy.weight_grad, is_weight=True, stored=kernel.weight.format)
    lhs, rhs = (own, other) if side == 0 else (other, own)
    return roles._replace(lhs=lhs, rhs=rhs)


def _paths(values: list[Value], kernels: list[bool]) -> tuple[str, ...]:
    """Paths of the kernels; without one, of what is upstream."""
    own = [p for value, k in zip(values, kernels, strict=True) if k for p in value.paths]
    return tuple(dict.fromkeys(own or [p for value in values for p in value.paths]))
