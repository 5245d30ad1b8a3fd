"""How many floating-point operations a matrix op takes."""

from __future__ import annotations

from math import prod
from typing import Any


def matrix_flops(eqn: Any) -> int:
    """Two for each multiply-add of a dot or convolution; 0 for any other equation."""
    out = prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
    match eqn.primitive.name:
        case "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            return 2 * out * prod(shape[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            spec = eqn.params["dimension_numbers"].rhs_spec  # (out, in, *spatial)
            return 2 * out * prod(kernel[axis] for axis in spec[1:])
        case "ragged_dot" | "ragged_dot_general":
            return 2 * out * eqn.invars[0].aval.shape[-1]
        case _:
            return 0
