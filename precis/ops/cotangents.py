"""Cotangents of the operands of a matrix op, each product with formats of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.extend import core as jex_core

from precis.formats import Format, wide_dtype
from precis.ops.cpu import in_rows
from precis.ops.operand import Coded, bring, bring_coded, is_scaled, summed_axes
from precis.ops.product import MATRIX_OPS, MatrixOp, bind, product


class Tagged(NamedTuple):
    """An array, and the scaled format that it is still to be brought to, if any.

    Attributes:
        array: [...].
        format: That format.
        key: A random key for it, if it is stochastic.
        held: The format that it was brought to already, if that is known.
    """

    array: Array
    format: Format | None
    key: Array | None = None
    held: Format | None = None


def bring_for(op: MatrixOp, x: Array, fmt: Format, side: int, key: Array | None = None) -> Array:
    """`bring` for operand `side` of `op`."""
    return bring(x, fmt, summed_axes(op.primitive.name, op.params, x.ndim, side), key)


def bring_coded_for(
    op: MatrixOp, x: Array, fmt: Format, side: int, key: Array | None = None
) -> Array | Coded:
    """`bring_coded` for operand `side` of `op`; a ragged dot's groups have scales of their own."""
    if op.group_sizes is not None:
        return bring_for(op, x, fmt, side, key)
    summed = summed_axes(op.primitive.name, op.params, x.ndim, side)
    x = in_rows(x, summed.all) if op.is_dot and is_scaled(fmt) else x
    return bring_coded(x, fmt, summed, key)


def cotangent_of(op: MatrixOp, side: int, operands: Sequence[Tagged], g: Tagged) -> Array:
    """The cotangent of operand `side`, given the output's, without any index algebra.

    JAX transposes the op at the accumulator's dtype; its matrix ops are then bound again with
    the operands as they are.
    """
    arrays = [*(operand.array for operand in operands), g.array]
    wide = wide_dtype(*(x.dtype for x in arrays[:2]))
    shapes = [jax.ShapeDtypeStruct(x.shape, wide) for x in arrays]

    def pull(g: Array, other: Array, *sizes: Array) -> Array:
        own = op._replace(group_sizes=sizes[0]) if sizes else op

        def push(operand: Array) -> Array:
            pair = (operand, other) if side == 0 else (other, operand)
            return bind(own, *pair, wide)

        return jax.linear_transpose(push, shapes[side])(g)[0]

    sizes = () if op.group_sizes is None else (op.group_sizes,)
    jaxpr = jax.make_jaxpr(pull)(shapes[2], shapes[1 - side], *sizes)
    others = (Tagged(x, None) for x in sizes)
    return _evaluate(jaxpr, g, operands[1 - side], *others, is_tf32=op.is_tf32)


def _evaluate(jaxpr: Any, *args: Tagged, is_tf32: bool) -> Array:
    """Runs a straight-line jaxpr on arrays of other dtypes, its matrix ops as products.

    Layout ops pass on what an array is still to be brought to, up to the product that sums it.
    """
    env: dict[Any, Tagged] = dict(zip(jaxpr.jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Tagged:
        return Tagged(atom.val, None) if isinstance(atom, jex_core.Literal) else env[atom]

    following = iter((*jaxpr.eqns[1:], None))
    for eqn in jaxpr.eqns:
        after = next(following)
        if eqn.outvars[0] in env:
            continue
        values = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name not in MATRIX_OPS:
            arrays = [value.array for value in values]
            out = values[0]._replace(array=eqn.primitive.bind(*arrays, **eqn.params))
        else:
            sizes = values.pop().array if len(values) > 2 else None
            op = MatrixOp(eqn.primitive, dict(eqn.params), sizes, is_tf32)
            if after is not None and _turns(after, eqn):
                # Products of layouts that are pinned keep a transpose that XLA would fold away.
                op, values = _swapped(op), values[::-1]
                env[after.outvars[0]] = _multiplied(op, values)
                continue
            out = _multiplied(op, values)
        env[eqn.outvars[0]] = out
    return read(jaxpr.jaxpr.outvars[0]).array


def _multiplied(op: MatrixOp, operands: Sequence[Tagged]) -> Tagged:
    brought = (
        x if fmt is None else bring_coded_for(op, x, fmt, side, key)
        for side, (x, fmt, key, _) in enumerate(operands)
    )
    lhs, rhs = (x.format or x.held for x in operands)
    return Tagged(product(op, *brought, formats=(lhs, rhs)), None)


def _turns(eqn: Any, dot: Any) -> bool:
    """Whether all that `eqn` does is to put the columns of a dot before its rows."""
    if eqn.primitive.name != "transpose" or dot.primitive.name != "dot_general":
        return False
    (summed, _), (batch, _) = dot.params["dimension_numbers"]
    first = dot.invars[0].aval.ndim - len(summed) - len(batch)
    order = range(dot.outvars[0].aval.ndim)
    return not batch and eqn.params["permutation"] == (*order[first:], *order[:first])


def _swapped(op: MatrixOp) -> MatrixOp:
    (left, right), batch = op.params["dimension_numbers"]
    return op._replace(params=op.params | {"dimension_numbers": ((right, left), batch)})
