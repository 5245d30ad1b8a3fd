"""Parameters by the paths that rules know them by, and what is given for some of these paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from precis.quant import Stored, is_stored
from precis.tree import has_collections, is_float, param_path
from precis.types import PyTree, what_there_is


def float_parameters(params: PyTree) -> dict[str, Any]:
    """Float parameters by path; of linen's variables, the collection `params` alone."""
    in_collections = has_collections(params)
    found: dict[str, Any] = {}
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_stored)
    for key_path, leaf in leaves:
        if in_collections and key_path[0].key != "params":
            continue
        if is_stored(leaf) or is_float(leaf):
            found[param_path(key_path, in_collections=in_collections)] = leaf
    return found


def stored_and_float(params: PyTree, qparams: PyTree) -> dict[str, tuple[Any, Stored]]:
    """Each weight in few bits of `qparams` with the float that `params` has there, by path.

    Raises:
        ValueError: There is none of its shape.
    """
    found = float_parameters(params)
    pairs = {}
    for path, leaf in float_parameters(qparams).items():
        if not is_stored(leaf):
            continue
        if path not in found or found[path].shape != leaf.shape:
            raise ValueError(
                f"{path} {list(leaf.shape)} was not made of these parameters: "
                f"{what_there_is(path, found)}"
            )
        pairs[path] = (found[path], leaf)
    return pairs


def check_given(name: str, given: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Checks numbers that are given by the paths of weights.

    Args:
        name: What they are called.
        given: Arrays with the axes of the weight, 1 where they do not vary; axes at the end may
            be left out.
        found: The parameters, by path.

    Raises:
        ValueError: A path that there is not, a shape that does not go with the weight's, or a
            weight that is in few bits already.
    """
    for path, value in given.items():
        if path not in found:
            raise ValueError(f"{name} of {path!r}: {what_there_is(path, found)}")
        shape, wanted = np.shape(value), found[path].shape
        pairs = zip(shape, wanted, strict=False)
        if len(shape) > len(wanted) or any(own not in (1, size) for own, size in pairs):
            raise ValueError(
                f"{name} of {path!r} is {list(shape)}: a number is wanted, or the axes of the "
                f"weight {list(wanted)}, each whole or 1"
            )
        if is_stored(found[path]):
            raise ValueError(
                f"{name} of {path!r}: it is in few bits already; give its parameters in float"
            )
