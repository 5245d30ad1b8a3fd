"""The formats of one matrix op: of its operands, its result and its cotangents."""

from __future__ import annotations

from typing import NamedTuple

from precis.formats import TF32, FloatFormat, Format, ScaledFormat, is_stochastic
from precis.ops.operand import carrier_of


class Operand(NamedTuple):
    """How one operand takes part.

    Attributes:
        format: What it is cast to before the product.
        grad: What its cotangent is rounded to; it is returned in the operand's own dtype.
        is_weight: Whether the backward pass keeps it as stored and casts it once more.
        stored: What it is stored in, if that is codes and scales; it has a cotangent then only
            if the weight has a tangent.
    """

    format: Format
    grad: FloatFormat
    is_weight: bool
    stored: ScaledFormat | None = None

    @property
    def is_16_bit(self) -> bool:
        """Whether it is a float that enters the product in a dtype of 16 bits."""
        return isinstance(self.format, FloatFormat) and carrier_of(self.format).itemsize == 2


class Roles(NamedTuple):
    """The formats of one matrix op.

    Attributes:
        lhs: First operand.
        rhs: Second operand.
        accum: What the product is rounded to when it leaves the accumulator.
        out: What the op hands over after that.
        grad_for_input: The output's cotangent as an operand of the backward products that give
            the cotangents of operands which are no weights: both of them, of an op without one.
        grad_for_weight: Likewise of those that give the gradients of weights.
    """

    lhs: Operand
    rhs: Operand
    accum: FloatFormat
    out: FloatFormat
    grad_for_input: Format
    grad_for_weight: Format

    def grad_for(self, operand: Operand) -> Format:
        """The output's cotangent in the product that gives the cotangent of `operand`."""
        return self.grad_for_weight if operand.is_weight else self.grad_for_input

    @property
    def grads(self) -> tuple[Format, Format]:
        """The output's cotangent in the products that give those of `lhs` and of `rhs`."""
        return self.grad_for(self.lhs), self.grad_for(self.rhs)

    @property
    def is_stochastic(self) -> bool:
        """Whether an operand, of the forward or of a backward product, is rounded by chance."""
        return any(map(is_stochastic, (self.lhs.format, self.rhs.format, *self.grads)))

    @property
    def is_tf32(self) -> bool:
        """Whether no operand has more bits than TF32, so that a GPU may multiply in that."""
        formats = (self.lhs.format, self.rhs.format, *self.grads)
        return all(isinstance(fmt, FloatFormat) and fmt.fits_in(TF32) for fmt in formats)
