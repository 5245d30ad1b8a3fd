"""How many floating-point operations a matrix op takes, and a call with matrix ops inside."""

from __future__ import annotations

from math import prod
from typing import Any

from precis.walk import equations

# Of the user, by jax.ffi; cuDNN's fused attention. Triton's and others end in `_kernel_call`.
_READY_MADE = ("ffi_call", "dot_product_attention")


def matrix_flops_inside(eqn: Any) -> int:
    """`matrix_flops` of an equation and of all in it, by trip count; of branches the costliest.

    A while loop's trips are not known, and counted as one.
    """
    bodies = [sum(map(matrix_flops_inside, body.eqns)) for body in equations.bodies_of(eqn)]
    is_choice = eqn.primitive.name == "cond"
    inside = max(bodies, default=0) if is_choice else sum(bodies)
    return matrix_flops(eqn) + equations.repeats(eqn) * inside


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


def kernels_in(eqn: Any) -> set[str]:
    """Names of the ready-made kernels inside a call: only their operands' shapes are known."""
    inside = [inner for body in equations.bodies_of(eqn) for inner in body.eqns]
    names = {inner.primitive.name for inner in inside}
    own = {name for name in names if name.startswith(_READY_MADE) or name.endswith("_kernel_call")}
    return own.union(*map(kernels_in, inside))
