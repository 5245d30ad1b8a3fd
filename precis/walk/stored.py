"""Weights in few bits on their way to a matrix op: what follows their algebra, and what opens them.

The function is traced with a float in place of each. What rearranges the float then rearranges
codes and scales; rows that are looked up are looked up there and dequantized; any other op gets
the weight dequantized, for itself alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precis.ops import MATRIX_OPS
from precis.quant import Stored, is_stored, open_stored, recast
from precis.walk import equations
from precis.walk.draft import Body, Draft
from precis.walk.kinds import Kind, Value, format_of
from precis.walk.program import Follow, Open

# Calls whose bodies take codes and scales as they come.
_ENTERED = frozenset({"inline", "remat", "scan", "cond", "while"})
# What changes neither order nor shape.
PASSED = frozenset(
    "copy copy_p device_put name optimization_barrier pvary pcast sharding_constraint "
    "stop_gradient".split()
)


def shape_of_stored(x: Stored) -> Stored:
    """`x` with the shapes of its arrays in their place."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), x)


def ready(
    draft: Draft, eqn: Any, call: equations.Call | None, inputs: tuple[int, ...]
) -> tuple[int, ...]:
    """Slots of the operands that `eqn` can take: those of weights that it cannot are opened."""
    known = [draft.values[slot] for slot in inputs]
    if call is not None and call.kind in _ENTERED:
        return inputs
    if eqn.primitive.name in MATRIX_OPS:
        others = [value for value in known[:2] if value.stored_as is None]
        # A product of parameters alone is taken as it is written.
        if len(others) == 1 and not (others[0].is_neutral and not others[0].data):
            return inputs
    return tuple(opened(draft, eqn, slot) for slot in inputs)


def opened(draft: Draft, eqn: Any, slot: int) -> int:
    """The slot of the dequantized weight, for `eqn` alone; `slot` itself if it holds no weight."""
    value = draft.values[slot]
    if value.stored_as is None:
        return slot
    plain = value._replace(stored_as=None, root=0)
    return draft.step(eqn, Open(value.paths), (slot,), [plain])[0]


def agreed(body: Body, eqn: Any, wanted: Iterable[Value]) -> Body:
    """`body`, what it hands over opened where the other side of the door holds a float."""
    outputs = [
        opened(body.draft, eqn, slot) if value.stored_as is None else slot
        for slot, value in zip(body.outputs, wanted, strict=True)
    ]
    return body._replace(outputs=outputs)


def stacked(value: Value, length: int) -> Value:
    """What a scan makes of a result that it stacks."""
    if value.stored_as is None:
        return value
    long = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct((length, *array.shape), array.dtype), value.stored_as
    )
    return value._replace(stored_as=long)


def row_of(value: Value) -> Value:
    """What one iteration of a scan sees of what it runs over."""
    if value.stored_as is None:
        return value
    row = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), value.stored_as
    )
    return value._replace(stored_as=row)


def plan_follow(
    draft: Draft, eqn: Any, inputs: tuple[int, ...], *, keeps_dtype: bool
) -> list[int] | None:
    """The step by which codes and scales do what `eqn` says; None if they cannot.

    Args:
        draft: The program.
        eqn: A first-order equation.
        inputs: The slots of its operands.
        keeps_dtype: Whether the program's casts are overruled.
    """
    known = [draft.values[slot] for slot in inputs]
    value = known[0] if known else Value(Kind.DISCRETE)
    if value.stored_as is None or any(v.stored_as is not None for v in known[1:]):
        return None
    if keeps_dtype and eqn.primitive.name == "convert_element_type":
        return [inputs[0]]
    shapes = [equations.shape_of(atom.aval) for atom in eqn.invars[1:]]
    try:
        out = jax.eval_shape(lambda *xs: follow(eqn, list(xs)), value.stored_as, *shapes)
    except (ValueError, TypeError, NotImplementedError):
        return None
    data = any(v.data for v in known)
    if is_stored(out):
        made = value._replace(stored_as=out, format=format_of(out.dtype), data=data)
    else:
        made = value._replace(stored_as=None, data=data, root=0)
    return draft.step(eqn, Follow(), inputs, [made])


def follow(eqn: Any, operands: list[Any]) -> Any:
    """What `eqn` makes of a weight in few bits: another one, or the rows that were looked up.

    Raises:
        NotImplementedError: It is no rearrangement of whole groups.
        ValueError: It would part a group.
    """
    x, *others = operands
    params, shape = eqn.params, eqn.outvars[0].aval.shape
    match eqn.primitive.name:
        case "convert_element_type" if format_of(params["new_dtype"]) is not None:
            return recast(x, params["new_dtype"])
        case "transpose":
            return x.transpose(params["permutation"])
        case "reshape" if params["dimensions"] is None:
            return x.reshape(shape)
        case "squeeze" | "expand_dims":
            return x.reshape(shape)
        case "broadcast_in_dim" if prod(x.shape) == prod(shape):
            return x.reshape(shape)
        case "slice":
            bounds = zip(params["start_indices"], params["limit_indices"], strict=True)
            strides = params["strides"] or [1] * x.ndim
            slices = zip(bounds, strides, strict=True)
            return x[tuple(slice(*bound, step) for bound, step in slices)]
        case "dynamic_slice":
            return _dynamic_slice(x, others, params["slice_sizes"])
        case "gather":
            return _looked_up(eqn, x, others[0])
        case "pvary" if not others:
            return jax.tree.map(lambda array: _varying(array, params["axes"]), x)
        case name if name in PASSED and not others:
            return x
        case name:
            raise NotImplementedError(name)


def _varying(x: Any, names: tuple[str, ...]) -> Any:
    """`x` as one that differs between devices along these axes of a mesh."""
    known = equations.varying_axes(jax.typeof(x))
    missing = tuple(name for name in names if name not in known)
    if not missing:
        return x
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, missing, to="varying")
    return getattr(jax.lax, "pvary")(x, missing)  # noqa: B009  # up to jax 0.9


def _dynamic_slice(x: Stored, starts: list[Any], sizes: tuple[int, ...]) -> Stored:
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        full = x.shape[axis]
        if size == full:
            continue
        first = jnp.clip(start, 0, full - size).astype(np.int32)
        if size == 1:
            shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
            x = x[(slice(None),) * axis + (first,)].reshape(shape)
        else:
            x = x.take(first + jnp.arange(size, dtype=np.int32), axis)
    return x


def _looked_up(eqn: Any, x: Stored, indices: Any) -> Any:
    """Whole rows by number, dequantized: of a table, as an embedding's."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    (axis,) = numbers.start_index_map
    rest = tuple(size for a, size in enumerate(sizes) if a != axis)
    is_row = numbers.collapsed_slice_dims == (axis,) and sizes[axis] == 1
    is_whole = rest == (*x.shape[:axis], *x.shape[axis + 1 :])
    is_plain = not numbers.operand_batching_dims and axis == 0
    # The axes of the rows come after those of the indices.
    out_ndim = len(eqn.outvars[0].aval.shape)
    is_last = numbers.offset_dims == tuple(range(out_ndim - len(rest), out_ndim))
    if not (is_row and is_whole and is_plain and is_last):
        raise NotImplementedError("gather of parts of rows")
    mode = str(eqn.params["mode"])
    places = indices[..., 0].astype(np.int32)
    if "CLIP" in mode or "clip" in mode:
        places = jnp.clip(places, 0, x.shape[0] - 1)
    return open_stored(x.take(places, 0))
