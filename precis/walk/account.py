"""What a plan runs: each matrix op with its formats, how often it runs, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil, prod
from typing import NamedTuple

import numpy as np

from precis.ops import (
    FLOAT8,
    Dtypes,
    Operand,
    Roles,
    backward_dtypes,
    carrier_of,
    product_dtypes,
)
from precis.policy import is_native
from precis.walk.program import Cond, Multiply, Opaque, Program, Scan, Site, Step, bodies

_SHORT = {
    "bfloat16": "bf16",
    "float16": "f16",
    "float32": "f32",
    "float64": "f64",
    "float8_e4m3fn": "e4m3fn",
    "float8_e5m2": "e5m2",
}
_F16 = np.dtype(np.float16)


class AuditedSite(NamedTuple):
    """A matrix op, and how often it runs in one call of the function.

    Attributes:
        site: Where it is.
        roles: The formats of its operands, its result and its cotangents.
        trips: How often it runs.
        out: Shape of the result.
    """

    site: Site
    roles: Roles
    trips: int
    out: tuple[int, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations of all its runs."""
        return self.site.flops * self.trips

    @property
    def nbytes(self) -> int:
        """Bytes of its operands and results in all its runs, as they are carried."""
        claimed = self.claimed
        sizes = (
            _bytes(self.roles.lhs, self.site.lhs, claimed.lhs),
            _bytes(self.roles.rhs, self.site.rhs, claimed.rhs),
            prod(self.out) * np.dtype(self.roles.out.carrier).itemsize,
        )
        return sum(sizes) * self.trips

    @property
    def claimed(self) -> Dtypes:
        """The product that it asks the backend for."""
        return product_dtypes(self.roles.lhs.format, self.roles.rhs.format)

    @property
    def backward(self) -> tuple[str, ...]:
        """The products that its derivatives ask for, as text: of the one operand, of the other."""
        return _texts(self._backward(has_float8=False))

    @property
    def on_cuda(self) -> str:
        """What it asks for in a program for CUDA, as text: fp8 is multiplied as float8 there."""
        return product_text(*map(str, self._on_cuda))

    @property
    def backward_on_cuda(self) -> tuple[str, ...]:
        """What its derivatives ask for there."""
        return _texts(self._backward(has_float8=self._is_dot))

    @property
    def besides(self) -> tuple[str, ...]:
        """What it and its derivatives may run as on CUDA alone, whichever operand is first.

        A GPU without products of float8 multiplies the same numbers in float16.
        """
        asked = (self._on_cuda, *self._backward(has_float8=self._is_dot))
        float8 = [dtypes for dtypes in asked if dtypes.lhs in FLOAT8]
        turned = [Dtypes(rhs, lhs, accum) for lhs, rhs, accum in float8]
        wider = [Dtypes(_F16, _F16, accum) for _, _, accum in float8]
        return _texts([*float8, *turned, *wider])

    @property
    def _is_dot(self) -> bool:
        return self.site.primitive == "dot_general"

    @property
    def _on_cuda(self) -> Dtypes:
        formats = self.roles.lhs.format, self.roles.rhs.format
        return product_dtypes(*formats, has_float8=self._is_dot)

    def _backward(self, *, has_float8: bool) -> list[Dtypes]:
        pairs = zip(self.roles.grads, (self.roles.rhs, self.roles.lhs), strict=True)
        # Codes are multiplied as they are stored, whatever they meet.
        return [
            (product_dtypes if other.stored else backward_dtypes)(
                grad, other.format, has_float8=has_float8
            )
            for grad, other in pairs
        ]

    @property
    def grads(self) -> str:
        """What the output's cotangent is rounded to: `bf16`, or `gx=int8, gw=bf16`."""
        roles = self.roles
        if len(set(roles.grads)) == 1:
            return str(roles.grads[0])
        return f"gx={roles.grad_for_input}, gw={roles.grad_for_weight}"

    @property
    def product(self) -> str:
        """That product as text: `bf16·bf16→f32`."""
        return product_text(*map(str, self.claimed))

    @property
    def formats(self) -> str:
        """Its operands' formats: `bf16·e4m3fn`, or one name if they are the same.

        Of a weight in few bits, that is what it is stored in.
        """
        sides = (self.roles.lhs, self.roles.rhs)
        return "·".join(dict.fromkeys(str(side.stored or side.format) for side in sides))

    @property
    def products(self) -> tuple[str, ...]:
        """Products that it may run as, as text: on CPU, codes meet the digits of 16-bit floats."""
        roles, integers = self.roles, product_text("int8", "int8", "int32")
        sides = (roles.lhs, roles.rhs), (roles.rhs, roles.lhs)
        in_digits = any(
            own.stored == own.format and carrier_of(own.format) == np.int8 and other.is_16_bit
            for own, other in sides
        )
        return (self.product, integers) if in_digits else (self.product,)

    @property
    def is_native(self) -> bool:
        """Whether both operands are in a format that XLA computes in."""
        roles = self.roles
        return all(is_native(operand.format) for operand in (roles.lhs, roles.rhs))

    @property
    def precision(self) -> str:
        """The precision that it asks of the backend.

        `TF32` is that on GPUs which have it, and HIGHEST on others.
        """
        claimed, roles = self.claimed, self.roles
        if claimed.lhs != claimed.accum:
            return "DEFAULT"
        carriers = [product_dtypes(side.format, side.format).lhs for side in (roles.lhs, roles.rhs)]
        is_tf32 = roles.is_tf32 and claimed.accum == np.float32 and np.float32 in carriers
        return "TF32" if is_tf32 else "HIGHEST"


def _bytes(operand: Operand, shape: tuple[int, ...], claimed: np.dtype) -> int:
    if operand.stored is None:
        return prod(shape) * claimed.itemsize
    return ceil(prod(shape) * operand.stored.bits_per_value / 8)


def _texts(products: Iterable[Dtypes]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(product_text(*map(str, dtypes)) for dtypes in products))


def product_text(lhs: str, rhs: str, accum: str) -> str:
    """Dtypes of a product as text.

    >>> product_text("bfloat16", "bfloat16", "float32")
    'bf16·bf16→f32'
    """
    lhs, rhs, accum = (_SHORT.get(name, name) for name in (lhs, rhs, accum))
    return f"{lhs}·{rhs}→{accum}"


class Counted(NamedTuple):
    """A step of a program, and how often it runs; of a cond, only the costliest branch does."""

    step: Step
    program: Program
    trips: int


def counted(program: Program, trips: int = 1) -> Iterator[Counted]:
    """Every step of a program and of the bodies in it."""
    for step in program.steps:
        yield Counted(step, program, trips)
        inside = trips * step.eqn.params["length"] if isinstance(step.action, Scan) else trips
        costliest = _costliest(step)
        for body in bodies(step.action):
            yield from counted(body, inside if costliest in (None, body) else 0)


def _costliest(step: Step) -> Program | None:
    if not isinstance(step.action, Cond):
        return None
    return max(step.action.branches, key=matrix_flops_of)


def matrix_flops_of(program: Program) -> int:
    """Matrix FLOPs of one call of a program."""
    total = 0
    for step, _, trips in counted(program):
        match step.action:
            case Multiply(_, site):
                total += site.flops * trips
            case Opaque(_, _, flops):
                total += flops * trips
            case _:
                pass
    return total


def sites(program: Program) -> Iterator[AuditedSite]:
    """Every matrix op of a program, in order; those of a branch not taken run 0 times."""
    for step, _, trips in counted(program):
        if isinstance(step.action, Multiply):
            out = step.eqn.outvars[0].aval.shape
            yield AuditedSite(step.action.site, step.action.roles, trips, out)
