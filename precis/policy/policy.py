"""A `Policy`: which format each role of a computation uses. Data only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

from precis.formats import BFLOAT16, FLOAT32, FloatFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A format for every role, all of them resolved.

    Make one with `get_policy`, which fills in the roles that the text leaves out.

    Attributes:
        param: Storage of the trained parameters.
        compute: Operands of matrix ops in the forward pass.
        kernel: The parameter operand of matrix ops.
        activation: What flows between ops, forward and backward.
        output: Float outputs of rank ≥ 1.
        accum: What a matrix op hands over before it is rounded to `activation`.
        grad: Cotangents as operands of backward matrix ops.
        weight_grad: Gradients of parameters.
        sensitive: Islands: softmax, norms, exp, log, long sums, losses; rank-0 outputs.
        reduce: Gradients on the wire.
        m: First moments of the optimizer.
        v: Second moments of the optimizer.
    """

    param: FloatFormat
    compute: FloatFormat
    kernel: FloatFormat
    activation: FloatFormat
    output: FloatFormat
    accum: FloatFormat
    grad: FloatFormat
    weight_grad: FloatFormat
    sensitive: FloatFormat
    reduce: FloatFormat
    m: FloatFormat
    v: FloatFormat

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
        """Whether some role's format is no dtype of XLA and rides on a wider carrier."""
        return any(not getattr(self, field.name).is_native for field in fields(self))

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether gradients can underflow: c, x, g or w has no more than 5 exponent bits."""
        formats = (self.compute, self.activation, self.grad, self.weight_grad)
        return any(fmt.exponent_bits <= 5 for fmt in formats)


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
    "a": "accum",
    "w": "weight_grad",
    "s": "sensitive",
    "x": "activation",
    "o": "output",
    "r": "reduce",
    "m": "m",
    "v": "v",
}


class _Known(Protocol):
    @property
    def param(self) -> FloatFormat: ...
    @property
    def compute(self) -> FloatFormat: ...
    @property
    def activation(self) -> FloatFormat: ...


def default_of(name: str, known: _Known) -> tuple[FloatFormat, str]:
    """The default format of role `name` and the reason for it.

    `known` has the roles that it derives from as attributes.
    """
    match name:
        case "param":
            return FLOAT32, "f32"
        case "compute":
            return known.param, "as p"
        case "kernel" | "grad":
            return known.compute, "as c"
        case "activation" if known.compute.bits < 16:
            return BFLOAT16, "bf16: c has fewer than 16 bits"
        case "activation":
            return known.compute, "as c"
        case "output":
            return known.activation, "as x"
        case "weight_grad" if known.param.fits_in(FLOAT32):
            return known.param, "as p"
        case _:
            widest = _wider(_wider(FLOAT32, known.param), known.compute)
            return widest, "the widest of f32, p and c"


def _wider(a: FloatFormat, b: FloatFormat) -> FloatFormat:
    return b if a.fits_in(b) else a
