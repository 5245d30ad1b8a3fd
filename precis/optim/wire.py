"""Gradients on the wire: an all-reduce whose numbers travel in few bits and are summed in float32.

Collectives of XLA sum in the dtype that travels: integers wrap, 8-bit floats give NaN, and each
addition of 16-bit floats rounds. So what is narrower than float32 is never summed on its way. Each
replica is sent all replicas' versions of its share of the gradients (all_to_all), sums them in
float32, and sends the result to all others (all_gather): two roundings, however many replicas, and
the bytes of a ring's all-reduce in that format.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats import (
    FLOAT32,
    Compact,
    FloatFormat,
    Format,
    Packed,
    ScaledFormat,
    cast_to,
    compress,
    decompress,
    pack,
    unpack,
    wide_dtype,
)
from precis.optim.norm import float_leaves
from precis.optim.replicas import AxisNames, gathered, is_same
from precis.policy import kept_format
from precis.tree import is_float, leaves_with_paths
from precis.types import PyTree

# Leaves travel together until they have so many entries. Each collective takes its time to start,
# and each share is filled up to whole blocks; but a bucket's float32 copy is a temporary.
_BUCKET = 1 << 22


def reduce_gradients(
    grads: PyTree, axis_name: AxisNames, fmt: Format | str, *, mean: bool = True
) -> PyTree:
    """The mean of `grads` over replicas, the same bits on all of them, sent in `fmt`.

    With D replicas, g_d the gradients of each and Q the rounding onto `fmt`, it is
    `Q(Σ_d Q(g_d) / D)`, the sum in float32; in float32 or wider, the plain `lax.pmean`. In blocks,
    neighbors in the flattened leaf share a scale. Then, but for float32's own rounding, no entry
    is further from the mean than `2 · h · A`: A is the mean over replicas of the largest magnitude
    in the entry's block, and h how far from the grid a value within ± its largest can lie, over
    that largest: 1/254 for int8.

    NaN and Inf are never hidden: an entry that holds one on some replica is not finite on any
    afterwards, and in blocks all that shares its scale is NaN.

    >>> per_replica = {"w": jnp.float32([[1.0, 2.0], [3.0, 6.0]])}
    >>> jax.vmap(lambda g: reduce_gradients(g, "data", "int8@block256"), axis_name="data")(
    ...     per_replica)["w"]
    Array([[2.015748, 4.      ],
           [2.015748, 4.      ]], dtype=float32)

    Args:
        grads: [...] real floats, one replica's; other leaves are left as they are.
        axis_name: Mapped axes (of `jax.shard_map`, `jax.pmap` or `jax.vmap`) to average over.
        fmt: A dtype, or blocks of at most 8 bits with float32 scales (`int8@block256`), or the
            name of one: role r of a policy.
        mean: False leaves out the division by the number of replicas.

    Returns:
        The same tree and dtypes.

    Raises:
        ValueError: Another format, or gradients that JAX has summed over the replicas already.
        TypeError: A leaf is complex.
    """
    kept = kept_format("r", fmt)
    _check_local(grads, axis_name)
    floats = float_leaves(grads)
    if isinstance(kept, FloatFormat) and kept.bits >= FLOAT32.bits:
        reduced = _sent_wide(floats, axis_name, kept, mean=mean)
    else:
        reduced = _sent_narrow(floats, axis_name, kept, mean=mean)
    found = (new.astype(old.dtype) for new, old in zip(reduced, floats, strict=True))
    return jax.tree.map(lambda leaf: next(found) if is_float(leaf) else leaf, grads)


def _check_local(grads: PyTree, axis_name: AxisNames) -> None:
    for path, leaf in leaves_with_paths(grads):
        if is_float(leaf) and is_same(leaf, axis_name):
            raise ValueError(
                f"the gradient {path or 'given'} does not vary over {axis_name!r}: JAX, inside "
                "shard_map, has summed it over the devices already. Take gradients with respect "
                "to precis.optim.varying(params, axis_name), as make_step(axis_name=…) does"
            )


def _sent_wide(
    leaves: list[Array], axis_name: AxisNames, fmt: FloatFormat, *, mean: bool
) -> list[Array]:
    wide = [leaf.astype(wide_dtype(fmt.carrier)) for leaf in leaves]
    return lax.pmean(wide, axis_name) if mean else lax.psum(wide, axis_name)


def _sent_narrow(
    leaves: list[Array], axis_name: AxisNames, fmt: FloatFormat | ScaledFormat, *, mean: bool
) -> list[Array]:
    block = 1 if isinstance(fmt, FloatFormat) else fmt.block or 1
    reduced: list[Array] = []
    for bucket in _buckets(leaves):
        # Each leaf starts a block of its own: how it is rounded is not its neighbors' affair.
        flats = [_filled(leaf.reshape(-1).astype(np.float32), block) for leaf in bucket]
        whole = _filled(jnp.concatenate(flats), block * lax.axis_size(axis_name))
        whole = _reduced(whole, axis_name, fmt, mean=mean)
        parts = jnp.split(whole, np.cumsum([flat.size for flat in flats]))
        pairs = zip(bucket, parts, strict=False)
        reduced += [part[: leaf.size].reshape(leaf.shape) for leaf, part in pairs]
    return reduced


def _buckets(leaves: list[Array]) -> list[list[Array]]:
    """The leaves in order, in groups that a leaf joins as long as the group stays small."""
    groups: list[list[Array]] = []
    size = 0
    for leaf in leaves:
        if not groups or size + leaf.size > _BUCKET:
            groups.append([])
            size = 0
        groups[-1].append(leaf)
        size += leaf.size
    return groups


def _reduced(
    x: Array, axis_name: AxisNames, fmt: FloatFormat | ScaledFormat, *, mean: bool
) -> Array:
    """The sum or mean over replicas of `x`, [n] float32 in whole blocks for each replica."""
    if not x.size:
        return x
    exchange = functools.partial(
        lax.all_to_all, axis_name=axis_name, split_axis=0, concat_axis=0, tiled=True
    )
    # What comes first is whose share it is on the way out, and whose gradient it is on the way in.
    received = _decode([exchange(part) for part in _encode(x, fmt)], fmt)
    replicas = lax.axis_size(axis_name)
    share = received.reshape(replicas, -1).sum(0)
    share = share / replicas if mean else share
    return _decode([gathered(part, axis_name) for part in _encode(share, fmt)], fmt)


def _filled(x: Array, multiple: int) -> Array:
    """[n] with zeros behind, up to a multiple of so many."""
    return jnp.pad(x, (0, -x.size % multiple))


def _encode(x: Array, fmt: FloatFormat | ScaledFormat) -> list[Array]:
    """What is sent of `x`, [n] float32: arrays of bits whose first axes divide as `x` does."""
    if isinstance(fmt, FloatFormat):
        # As integers: XLA's CPU widens collectives of bfloat16 to float32.
        return [lax.bitcast_convert_type(cast_to(x, fmt), np.uint16)]
    codes, scales = compress(x.reshape(-1, fmt.block or 1), fmt)
    return [codes if fmt.bits == 8 else pack(codes, fmt.grid).data, scales]


def _decode(parts: list[Array], fmt: FloatFormat | ScaledFormat) -> Array:
    """[n] float32: what `_encode` sent."""
    if isinstance(fmt, FloatFormat):
        return lax.bitcast_convert_type(parts[0], fmt.carrier).astype(np.float32)
    codes, scales = parts
    codes = codes if fmt.bits == 8 else unpack(Packed(codes, fmt.grid, fmt.block or 1))
    return decompress(Compact(codes, scales), fmt).reshape(-1)
