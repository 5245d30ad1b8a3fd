"""Where the parts of a weight in few bits lie, given where its float does."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from precis.quant.kernel import Kernel, is_stored
from precis.types import PyTree


def shardings_like(tree: PyTree, shardings: PyTree) -> PyTree:
    """Shardings for `tree`, of the parameters' own, for `jax.device_put` or `out_shardings`.

    Codes lie as their floats would. So do scales, but that they are whole along axes where one
    stands for all, or where there are too few blocks to divide among the devices.

    Args:
        tree: With `QTensor`s and `Kernel`s, or their shapes: `jax.eval_shape(quantize, params)`.
        shardings: A `NamedSharding` or `PartitionSpec` for each parameter, or one for all.

    Returns:
        `tree` with a sharding in place of every array.

    Raises:
        ValueError: Codes that share bytes cannot be divided so.
    """
    is_sharding = lambda x: isinstance(x, NamedSharding | PartitionSpec)  # noqa: E731
    if is_sharding(shardings):
        return jax.tree.map(lambda leaf: _one(leaf, shardings), tree, is_leaf=is_stored)
    flat, structure = jax.tree.flatten(tree, is_leaf=is_stored)
    given = jax.tree.leaves(shardings, is_leaf=is_sharding)
    if len(given) != len(flat):
        raise ValueError(f"{len(flat)} parameters and {len(given)} shardings: one for each, or one")
    return jax.tree.unflatten(structure, [_one(*pair) for pair in zip(flat, given, strict=True)])


def _one(leaf: Any, sharding: Any) -> Any:
    if not is_stored(leaf):
        return sharding
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    spec = sharding.spec if isinstance(sharding, NamedSharding) else sharding
    names = [*spec, *[None] * (leaf.ndim - len(spec))]

    def along(x: Any, *, whole: bool = False) -> Any:
        """The float's sharding, less what `x` cannot be divided by; None of nothing."""
        if x is None:
            return None
        own = [
            name if whole or _divides(mesh, name, size, full) else None
            for name, size, full in zip(names, x.shape, leaf.shape, strict=True)
        ]
        found = PartitionSpec(*own)
        return found if mesh is None else NamedSharding(mesh, found)

    if isinstance(leaf, Kernel):
        return replace(
            leaf,
            weight=_one(leaf.weight, sharding),
            input_amax=along(leaf.input_amax),
            smoothing=along(leaf.smoothing),
        )
    if leaf.packed is not None and mesh is not None:
        axis = leaf.packed[0]
        if leaf.values.shape[axis] % _parts(mesh, names[axis]):
            raise ValueError(
                f"{leaf.format} {list(leaf.shape)}: {leaf.values.shape[axis]} bytes along axis "
                f"{axis} are not divided among {_parts(mesh, names[axis])} devices"
            )
    return replace(
        leaf,
        values=along(leaf.values, whole=True),
        scale=along(leaf.scale),
        zero_point=along(leaf.zero_point),
        tensor_scale=along(leaf.tensor_scale),
    )


def _divides(mesh: Any, name: Any, size: int, full: int) -> bool:
    if size == 1 or name is None:
        return False
    return size == full or mesh is None or size % _parts(mesh, name) == 0


def _parts(mesh: Any, name: Any) -> int:
    names = () if name is None else name if isinstance(name, tuple) else (name,)
    return prod(mesh.shape[n] for n in names)
