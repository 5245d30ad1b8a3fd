"""A `Policy`: which format each role of a computation uses. Data only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

from precis.formats import (
    BFLOAT16,
    FLOAT32,
    FloatFormat,
    Format,
    IntFormat,
    Rounded,
    ScaledFormat,
    is_stochastic,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A format for every role, all of them resolved.

    Make one with `get_policy`, which fills in the roles that the text leaves out.

    Attributes:
        param: Storage of the trained parameters: an unscaled float, or few bits with scales for
            those that are operands of matrix ops, the others then in f32.
        compute: Operands of matrix ops in the forward pass; any format, scaled ones included.
        kernel: The parameter operand of matrix ops; likewise.
        activation: What flows between ops, forward and backward.
        output: Float outputs of rank ≥ 1.
        accum: What a matrix op hands over before it is rounded to `activation`.
        grad: Cotangents as operands of backward matrix ops; likewise.
        grad_for_input: Those in the product that gives an input's gradient (dgrad), and in all
            products of two activations; likewise.
        grad_for_weight: Those in the product that gives a weight's gradient (wgrad); likewise.
        weight_grad: Gradients of parameters.
        sensitive: Islands: softmax, norms, exp, log, long sums, losses; rank-0 outputs.
        reduce: Gradients on the wire between devices: a dtype, or blocks of at most 8 bits.
        m: First moments of the optimizer: a dtype, or blocks of at most 8 bits.
        v: Second moments of the optimizer; likewise.
    """

    param: Format
    compute: Format
    kernel: Format
    activation: FloatFormat
    output: FloatFormat
    accum: FloatFormat
    grad: Format
    grad_for_input: Format
    grad_for_weight: Format
    weight_grad: FloatFormat
    sensitive: FloatFormat
    reduce: FloatFormat | ScaledFormat
    m: FloatFormat | ScaledFormat
    v: FloatFormat | ScaledFormat

    def __str__(self) -> str:
        """The shortest canonical text: p, c and o, and every role that is not at its default."""
        return ",".join(
            f"{role.key}={role.format}"
            for role in self.roles()
            if role.key in ("p", "c", "o") or role.reason == "given"
        )

    def roles(self) -> list[Role]:
        """Every role in the text's order, with its format and the reason for it."""
        roles = []
        for key, name in KEYS.items():
            fmt = getattr(self, name)
            default, reason = default_of(name, self)
            roles.append(Role(key, name, str(fmt), reason if fmt == default else "given"))
        return roles

    @property
    def is_emulated(self) -> bool:
        """Whether some role's format is no dtype of XLA and rides on a wider carrier.

        What is only kept or sent, m, v and r, and p in few bits, takes the bits that it says; g is
        what gx and gw follow, and computes nothing by itself.
        """
        computed = (field.name for field in fields(self) if field.name not in (*_KEPT, "grad"))
        formats = [getattr(self, name) for name in computed if name != "param"]
        formats += [self.param] * (not self.stores_codes)
        return not all(map(is_native, formats))

    @property
    def stores_codes(self) -> bool:
        """Whether parameters of matrix ops are stored as codes and scales."""
        return not isinstance(self.param, FloatFormat)

    @property
    def is_stochastic(self) -> bool:
        """Whether some role is rounded by chance, so that its computation takes a random key."""
        formats = (self.compute, self.kernel, self.grad_for_input, self.grad_for_weight)
        return any(map(is_stochastic, formats))

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether gradients can underflow: c, x, gx, gw or w is unscaled, ≤ 5 exponent bits."""
        cotangents = (self.grad_for_input, self.grad_for_weight, self.weight_grad)
        grids = map(plain, (self.compute, self.activation, *cotangents))
        return any(isinstance(grid, FloatFormat) and grid.exponent_bits <= 5 for grid in grids)


class Role(NamedTuple):
    """One role of a policy.

    Attributes:
        key: Its letter in the text.
        name: Its long name, the field of `Policy`.
        format: The short name of its format.
        reason: `given`, or the default that it follows.
    """

    key: str
    name: str
    format: str
    reason: str


# Text order: the three of jmp's first letters frame the rest, as in the presets.
KEYS = {
    "p": "param",
    "c": "compute",
    "k": "kernel",
    "g": "grad",
    "gx": "grad_for_input",
    "gw": "grad_for_weight",
    "a": "accum",
    "w": "weight_grad",
    "s": "sensitive",
    "x": "activation",
    "o": "output",
    "r": "reduce",
    "m": "m",
    "v": "v",
}


_KEPT = ("reduce", "m", "v")


class _Known(Protocol):
    @property
    def param(self) -> Format: ...
    @property
    def compute(self) -> Format: ...
    @property
    def activation(self) -> FloatFormat: ...
    @property
    def grad(self) -> Format: ...


def is_native(fmt: Format) -> bool:
    """Whether XLA computes in `fmt`; otherwise it is emulated on a wider carrier.

    int8 is, if all values that a matrix op sums share a float32 scale.
    """
    match fmt:
        case FloatFormat():
            return fmt.is_native
        case IntFormat() | Rounded(grid=IntFormat()):
            return str(plain(fmt)) == "int8"
        case ScaledFormat(granularity="tensor" | "channel", scale=None, grid=IntFormat() as grid):
            return str(grid) == "int8"
        case _:
            return False


def plain(fmt: Format) -> Format:
    """`fmt` without its way of rounding."""
    return fmt.grid if isinstance(fmt, Rounded) else fmt


def default_of(name: str, known: _Known) -> tuple[Format, str]:
    """The default format of role `name` and the reason for it.

    `known` has the roles that it derives from as attributes.
    """
    match name:
        case "param":
            return FLOAT32, "f32"
        case "compute":
            if isinstance(known.param, FloatFormat) or is_native(known.param):
                return known.param, "as p"
            return BFLOAT16, "bf16: p is scaled, and no int8"
        case "kernel" | "grad":
            return known.compute, "as c"
        case "grad_for_input" | "grad_for_weight":
            return known.grad, "as g"
        case "activation":
            compute = plain(known.compute)
            if isinstance(compute, FloatFormat) and compute.bits >= 16:
                return compute, "as c"
            return BFLOAT16, "bf16: c is scaled or has fewer than 16 bits"
        case "output":
            return known.activation, "as x"
        case "weight_grad" if not isinstance(known.param, FloatFormat):
            return FLOAT32, "f32: p is scaled"
        case "weight_grad" if isinstance(known.param, FloatFormat) and known.param.fits_in(FLOAT32):
            return known.param, "as p"
        case _:
            widest = FLOAT32
            if isinstance(known.param, FloatFormat):
                widest = _wider(widest, known.param)
            compute = plain(known.compute)
            if isinstance(compute, FloatFormat):
                widest = _wider(widest, compute)
            return widest, "the widest of f32, p and c"


def _wider(a: FloatFormat, b: FloatFormat) -> FloatFormat:
    return b if a.fits_in(b) else a
