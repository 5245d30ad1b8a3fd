"""What JAX knows of replicas: whether values differ between them, and how to say that they do.

Inside `jax.shard_map` with its check on (`check_vma=True`), a value's type says along which axes
of the mesh it varies. The gradient with respect to a value that does not vary is summed over the
devices by JAX itself, in the dtype that it has there. Whoever wants to choose how gradients travel
takes them with respect to parameters that vary.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
from jax import Array, lax

from precis.types import PyTree
from precis.walk.equations import varying_axes

AxisNames: TypeAlias = str | tuple[str, ...]


def varying(tree: PyTree, axis_name: AxisNames) -> PyTree:
    """`tree`, each of its arrays typed as one that may differ between replicas; no bit changes.

    Its gradient is then each device's own. Where JAX keeps no such types, `tree` as it is.

    Args:
        tree: Any arrays.
        axis_name: Mapped axes.
    """
    names = _known(axis_name)

    def vary(x: Any) -> Any:
        missing = tuple(name for name in names if name not in varying_axes(jax.typeof(x)))
        return _cast(x, missing) if missing else x

    return jax.tree.map(vary, tree)


def is_same(x: Any, axis_name: AxisNames) -> bool:
    """Whether JAX knows that `x` is the same on all replicas along `axis_name`."""
    names = _known(axis_name)
    return bool(names) and not names & varying_axes(jax.typeof(x))


def gathered(x: Array, axis_name: AxisNames) -> Array:
    """The parts [n, ...] of all replicas in a row, [replicas · n, ...], and known to be the same.

    Args:
        x: [n, ...], one replica's part.
        axis_name: Mapped axes.
    """
    if not _known(axis_name):
        return lax.all_gather(x, axis_name, tiled=True)
    if hasattr(lax, "all_gather_invariant"):  # up to jax 0.9
        return getattr(lax, "all_gather_invariant")(x, axis_name, tiled=True)  # noqa: B009
    return lax.all_gather(x, axis_name, tiled=True, to="invarying")


def _known(axis_name: AxisNames) -> frozenset[str]:
    """Those of the axes along which JAX knows what varies, as a device's own place does."""
    return varying_axes(jax.typeof(lax.axis_index(axis_name)))


def _cast(x: Any, names: tuple[str, ...]) -> Any:
    if hasattr(lax, "pcast"):
        return lax.pcast(x, names, to="varying")
    return getattr(lax, "pvary")(x, names)  # noqa: B009  # up to jax 0.9
