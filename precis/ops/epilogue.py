"""Scales of operands, applied to the result of their product."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array


def scaled_result(
    primitive: str, params: dict[str, Any], out: Array, scales: Array, side: int
) -> Array:
    """`out` times the scales of operand `side`.

    Args:
        primitive: `dot_general` or `conv_general_dilated`.
        params: Its parameters.
        out: [...] float32: the sums of products of codes.
        scales: float32, shaped as the operand but with 1 along what the op sums over.
        side: 0 for the first operand, 1 for the second.
    """
    if scales.size == 1:
        return out * scales.reshape(())
    if primitive == "dot_general":
        return out * _along_dot(params, out, scales, side)
    return out * _along_convolution(params, out, scales, side)


def _along_dot(params: dict[str, Any], out: Array, scales: Array, side: int) -> Array:
    summed, batch = (pair[side] for pair in params["dimension_numbers"])
    free = [axis for axis in range(scales.ndim) if axis not in (*summed, *batch)]
    shape = [scales.shape[axis] for axis in (*batch, *free)]
    others = [1] * (out.ndim - len(shape))
    n = len(batch)
    moved = jnp.transpose(scales, (*batch, *free, *summed))
    return moved.reshape([*shape, *others] if side == 0 else [*shape[:n], *others, *shape[n:]])


def _along_convolution(params: dict[str, Any], out: Array, scales: Array, side: int) -> Array:
    """Scales of an image's examples, or of a kernel's outputs."""
    spec, out_spec = params["dimension_numbers"][side], params["dimension_numbers"].out_spec
    groups = params["batch_group_count"] if side == 0 else 1
    shape = [1] * out.ndim
    if groups == 1:
        shape[out_spec[side]] = scales.shape[spec[0]]
        return scales.reshape(shape)
    # Each group of examples makes features of its own.
    examples, features = scales.size // groups, out.shape[out_spec[1]]
    table = jnp.repeat(scales.reshape(groups, examples).T, features // groups, axis=1)
    shape[out_spec[0]], shape[out_spec[1]] = examples, features
    return (table if out_spec[0] < out_spec[1] else table.T).reshape(shape)
