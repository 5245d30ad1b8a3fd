"""Trees of arrays: paths as `a/b/kernel`, maps over float leaves, sizes in bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from precis.types import PyTree


def path_str(key_path: tuple[Any, ...]) -> str:
    """A JAX key path as `a/b/kernel`; indices and field names appear as they are.

    >>> path_str(jax.tree_util.tree_leaves_with_path({"a": [1, 2]})[1][0])
    'a/1'
    """
    return "/".join(str(_name(entry)) for entry in key_path)


def leaves_with_paths(tree: PyTree) -> list[tuple[str, Any]]:
    """The leaves of `tree` in order, each with its path."""
    return [(path_str(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def has_collections(tree: PyTree) -> bool:
    """Whether `tree` is linen's variables, of which the collection `params` holds parameters."""
    return isinstance(tree, Mapping) and "params" in tree


def param_path(key_path: tuple[Any, ...], *, in_collections: bool = False) -> str:
    """The path by which rules know a parameter, the same for linen, nnx and plain trees.

    It has neither the name of linen's collection `params` nor the `value` of an nnx variable.

    Args:
        key_path: Within the tree of parameters.
        in_collections: Whether that tree is linen's variables.
    """
    if in_collections and _name(key_path[0]) == "params":
        key_path = key_path[1:]
    is_boxed = len(key_path) > 1 and key_path[-1] == jax.tree_util.GetAttrKey("value")
    return path_str(key_path[:-1] if is_boxed else key_path)


def is_float(x: Any) -> bool:
    """Whether `x` has a real floating-point dtype (float8 and bfloat16 included)."""
    dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
    return jnp.issubdtype(dtype, jnp.floating)


def map_floats(fn: Callable[[Any], Any], tree: PyTree) -> PyTree:
    """`tree` with `fn` applied to its float leaves; integers, booleans and keys are untouched."""
    return jax.tree.map(lambda leaf: fn(leaf) if is_float(leaf) else leaf, tree)


def map_params(fn: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """`tree` with `fn` applied to the path and the value of each float leaf.

    A node with static facts, such as a quantized array, is left whole: its arrays are codes.
    """
    in_collections = has_collections(tree)

    def on_leaf(key_path: tuple[Any, ...], leaf: Any) -> Any:
        if _has_facts(leaf) or not is_float(leaf):
            return leaf
        return fn(param_path(key_path, in_collections=in_collections), leaf)

    return jax.tree_util.tree_map_with_path(on_leaf, tree, is_leaf=_has_facts)


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of `tree` in order, by the paths that rules know parameters by.

    A node with static facts, such as a quantized array, is one of them.
    """
    in_collections = has_collections(tree)
    return {
        param_path(path, in_collections=in_collections): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_has_facts)
    }


def with_leaves(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """`tree` with other leaves, given by the paths of `named_leaves`."""
    structure = jax.tree.structure(tree, is_leaf=_has_facts)
    return jax.tree.unflatten(structure, [leaves[path] for path in named_leaves(tree)])


class HasStaticFacts(Protocol):
    """A pytree node that is more than its arrays."""

    @property
    def static_facts(self) -> dict[str, Any]:
        """What else it takes to read the arrays, as JSON."""
        ...


def static_facts(tree: PyTree) -> dict[str, dict[str, Any]]:
    """What the nodes of `tree` hold beside arrays, by path, as JSON.

    A checkpoint keeps arrays alone and takes the rest from the tree that it is restored into; so
    this is to be kept with it, and compared.
    """
    nodes = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_has_facts)
    return {path_str(path): node.static_facts for path, node in nodes if _has_facts(node)}


def _has_facts(node: Any) -> TypeGuard[HasStaticFacts]:
    return hasattr(type(node), "static_facts")


def check_static_facts(saved: Mapping[str, Any], tree: PyTree) -> None:
    """Checks that arrays saved with the static facts `saved` mean in `tree` what they meant.

    Raises:
        ValueError: They do not; the message has the first node that differs.
    """
    wanted = static_facts(tree)
    for path in sorted(saved.keys() | wanted.keys()):
        was, is_now = saved.get(path, "plain arrays"), wanted.get(path, "plain arrays")
        if was != is_now:
            raise ValueError(f"{path} was saved as {was}, and {is_now} is to be restored")


def plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype on disk: itself if NumPy has it, else the unsigned integer of its size."""
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


def nbytes(tree: PyTree) -> int:
    """Bytes of storage that the array leaves of `tree` take (shapes suffice)."""
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize


def _name(entry: Any) -> Any:
    for field in ("key", "idx", "name"):
        if hasattr(entry, field):
            return getattr(entry, field)
    return entry
