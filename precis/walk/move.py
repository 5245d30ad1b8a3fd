"""Brings a value from one format to another, forward and backward."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats import BFLOAT16, FLOAT32, FloatFormat, cast_to
from precis.ops import cast_with_tangent, settled
from precis.walk.kinds import Kind, Value


def move(
    x: Any,
    source: Value | FloatFormat,
    target: FloatFormat | None,
    *,
    forward_mode: bool = False,
    pinned: bool = False,
    strict: bool = False,
) -> Any:
    """`x` in `target`, its cotangent in the format that `x` was in.

    Between dtypes this is XLA's convert, whose transpose is the convert back. For a format
    without a dtype, both directions round. Constants and other free values saturate: a mask of
    the largest negative float32 must not become infinite in float16.

    Args:
        x: [...] in `source`'s format.
        source: What is known of it, or its format.
        target: Where to bring it; None leaves it as it is.
        forward_mode: Have derivatives that `jax.jvp` takes, too.
        pinned: Round in a way that XLA's CPU does not leave out before a sum, forward and backward,
            where a bfloat16 value is made of a float32 one.
        strict: Round so in every format, and before anything, which takes a rule of its own.
    """
    current = source.format if isinstance(source, Value) else source
    if target is None or current is None or current == target:
        return x
    if isinstance(source, Value) and source.kind is Kind.FREE:
        x = _saturate(x, target)
    # From float64 to 16 bits, a convert goes through float32 and rounds twice.
    twice = x.dtype == np.float64 and target.bits < FLOAT32.bits
    if isinstance(x, np.ndarray) and target.dtype is not None and not twice:
        return x.astype(target.dtype)
    free_to_convert = current.is_native and target.is_native and not twice
    if free_to_convert and (forward_mode or not strict):
        if pinned and target == BFLOAT16 and x.dtype == np.float32:
            x = settled(x)
        out = lax.convert_element_type(x, target.carrier)
        # In forward mode nothing else has, and a parameter's cotangent leaves as it comes.
        is_first = forward_mode or (isinstance(source, Value) and source.kind is Kind.WEIGHT)
        if pinned and is_first and current == BFLOAT16 and target == FLOAT32:
            return settled(out)
        return out
    x = jnp.asarray(x)
    if forward_mode:
        return cast_with_tangent(x, target)
    return _rounded_both_ways(x, current, target)


def _saturate(x: Any, target: FloatFormat) -> Any:
    if target.max >= float(jnp.finfo(x.dtype).max):
        return x
    if isinstance(x, np.ndarray):
        return np.where(np.isinf(x), x, np.clip(x, -target.max, target.max)).astype(x.dtype)
    return jnp.where(jnp.isinf(x), x, jnp.clip(x, -target.max, target.max))


def _rounded_both_ways(x: Array, source: FloatFormat, target: FloatFormat) -> Array:
    dtype = x.dtype
    call = jax.custom_vjp(lambda x: cast_to(x, target))

    def backward(_: None, cotangent: Array) -> tuple[Array]:
        # The sum of several uses' cotangents arrives here; it is a value between ops, too.
        return (cast_to(cast_to(cotangent, target), source).astype(dtype),)

    call.defvjp(lambda x: (cast_to(x, target), None), backward)
    return call(x)


def widen(x: Any, fmt: FloatFormat | None, forward_mode: bool) -> Any:
    """`x`, which is in `fmt`, on float32, if it is a float in less."""
    if fmt is None or is_wide(fmt) or not _is_float(x):
        return x
    return move(x, fmt, FLOAT32, forward_mode=forward_mode)


def narrow(x: Any, fmt: FloatFormat | None, forward_mode: bool) -> Any:
    """Undoes `widen`."""
    return x if fmt is None or is_wide(fmt) else rounded(x, fmt, forward_mode)


def rounded(x: Any, fmt: FloatFormat | None, forward_mode: bool, **how: bool) -> Any:
    """`x`, which is in float32, in `fmt`, if it is a float; `how` is for `move`."""
    if fmt is None or not _is_float(x):
        return x
    return move(x, FLOAT32, fmt, forward_mode=forward_mode, **how)


def is_wide(fmt: FloatFormat) -> bool:
    """Whether the format is float32, or float64."""
    return fmt.dtype is not None and fmt.dtype.itemsize >= 4


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
