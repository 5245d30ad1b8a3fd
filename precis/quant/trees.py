"""Whole trees of parameters, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from jax import Array

from precis.quant.calibration import Calibration, read_calibration
from precis.quant.kernel import is_stored, open_stored
from precis.quant.leaf import quantize_array
from precis.quant.qtensor import QTensor
from precis.quant.rules import KEPT, QuantRule, Rules, check_rules, quant_rules, rule_for
from precis.tree import has_collections, is_float, param_path
from precis.types import PyTree


def quantize(
    tree: PyTree,
    rules: Rules,
    *,
    calibrate: Calibration | str = "absmax",
    keep: Sequence[str] = KEPT,
) -> PyTree:
    """`tree` with the parameters that `rules` say as `QTensor`s; all else is as it was.

    Norms, biases, running statistics, embeddings, vectors and scalars stay in float unless the
    last rule that matches them spells out the last part of their path (`**/embedding`). What is a
    `QTensor` already stays one. In linen's variables, only the collection `params` is quantized.
    Pure: it works under `jit` and `eval_shape`; leaf by leaf, each shape is compiled once.

    >>> import jax.numpy as jnp
    >>> tree = {"dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}}
    >>> quantize(tree, "int8")["dense"]["kernel"].values.dtype
    dtype('int8')

    Args:
        tree: Parameters: linen's, an nnx state, or any tree of arrays.
        rules: See `quant_rules`.
        calibrate: What groups are scaled by; see `read_calibration`.
        keep: Patterns of paths that stay in float unless a rule names them.

    Raises:
        ValueError: A rule matches nothing, or nothing would be quantized; the message says what
            there is. Also as `quantize_array`, with the path.
        TypeError: As `quantize_array`, with the path.
    """
    resolved, how = quant_rules(rules), read_calibration(calibrate)
    in_collections = has_collections(tree)
    flat, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_stored)
    leaves: list[Any] = []
    ndims: dict[str, int] = {}
    stored: list[str] = []
    for key_path, leaf in flat:
        is_state = in_collections and key_path[0].key != "params"
        path = param_path(key_path, in_collections=in_collections)
        if is_stored(leaf) and not is_state:
            stored.append(path)
        if is_stored(leaf) or is_state or not is_float(leaf):
            leaves.append(leaf)
            continue
        ndims[path] = leaf.ndim
        leaves.append(quantize_one(path, leaf, resolved, how, keep))
    is_quantized = any(is_stored(leaf) for leaf in leaves)
    check_rules(resolved, ndims, keep, is_quantized=is_quantized, stored=stored)
    return jax.tree.unflatten(structure, leaves)


def quantize_stream(
    parameters: Iterable[tuple[str, Array]],
    rules: Rules,
    *,
    calibrate: Calibration | str = "absmax",
    keep: Sequence[str] = KEPT,
) -> Iterator[tuple[str, Array | QTensor]]:
    """Paths and parameters, those that `rules` say as `QTensor`s, one at a time.

    Each float is let go before the next one is asked for; so if `parameters` reads them one by
    one and keeps none, at most one is in memory, beside all that is quantized.

    Args:
        parameters: Paths, as rules know them, and arrays.
        rules: See `quantize`, as of the others.
        calibrate: Likewise.
        keep: Likewise.

    Raises:
        ValueError: As `quantize`; of rules that match nothing after the last parameter.
        TypeError: As `quantize`.
    """
    resolved, how = quant_rules(rules), read_calibration(calibrate)
    ndims: dict[str, int] = {}
    stored: list[str] = []
    is_quantized = False
    for path, leaf in parameters:
        if is_stored(leaf) or not is_float(leaf):
            out = leaf
            stored += [path] if is_stored(leaf) else []
        else:
            ndims[path] = leaf.ndim
            out = quantize_one(path, leaf, resolved, how, keep)
        # The float is freed when it has been read, not when the next one replaces it.
        del leaf
        is_quantized |= is_stored(out)
        yield path, jax.block_until_ready(out)
        del out
    check_rules(resolved, ndims, keep, is_quantized=is_quantized, stored=stored)


def dequantize(tree: PyTree) -> PyTree:
    """`tree` with arrays in place of its `QTensor`s and `Kernel`s; all else is as it was.

    >>> import jax.numpy as jnp
    >>> tree = {"kernel": jnp.float32([[1.0, -2.0], [0.5, 4.0]])}
    >>> dequantize(quantize(tree, "int8@tensor"))["kernel"]
    Array([[ 1.007874, -2.015748],
           [ 0.503937,  4.      ]], dtype=float32)
    """
    return jax.tree.map(
        lambda leaf: open_stored(leaf) if is_stored(leaf) else leaf, tree, is_leaf=is_stored
    )


def quantize_one(
    path: str,
    leaf: Array,
    rules: Sequence[QuantRule],
    how: Calibration | str = "absmax",
    keep: Sequence[str] = KEPT,
) -> Array | QTensor:
    """One parameter of a tree, as `quantize` would have it there.

    Raises:
        ValueError: As `quantize_array`, with the path.
        TypeError: Likewise.
    """
    rule = rule_for(rules, path, leaf.ndim, keep)
    if rule is None or rule.format is None:
        return leaf
    # A table's rows are looked up, and its columns summed over where it is an output layer, too.
    is_table = path.rpartition("/")[2] == "embedding"
    axis = -1 if rule.axis is None and is_table else rule.axis
    try:
        return quantize_array(leaf, rule.format, axis=axis, calibrate=how)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path} {list(leaf.shape)}: {error}") from None
