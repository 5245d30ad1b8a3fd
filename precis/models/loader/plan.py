"""What becomes of each leaf of a checkpoint, decided before any is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from precis.formats import ScaledFormat
from precis.quant import (
    KEPT,
    KEPT_BY_DEFAULT,
    KEPT_BY_RULE,
    Calibration,
    QTensor,
    QuantRule,
    Rules,
    attention_axes,
    check_rules,
    quant_rules,
    quantize_array,
    rule_for,
)
from precis.tree import is_float
from precis.types import matches

CHECKPOINT_KEPT = (*KEPT, "**/*embed*/weight", "**/wte/weight", "**/wpe/weight")
"""What stays in float unless a rule names it: `KEPT`, and embeddings by the names of PyTorch."""

_PARAMS = "params/"


@dataclass(frozen=True)
class Plan:
    """What becomes of each leaf.

    Attributes:
        rules: The rules, in their order.
        quantized: By path, the rule that a leaf is quantized by, its axis made explicit where it
            is not what is usual for an array.
        names: How rules know these leaves, by path.
        nodes: By path, the shapes and static facts of what that makes.
        kept: Why each other float of two axes or more stays as it is, by path.
    """

    rules: tuple[QuantRule, ...]
    quantized: Mapping[str, QuantRule]
    names: Mapping[str, str]
    nodes: Mapping[str, QTensor]
    kept: Mapping[str, str]


def plan_of(
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    rules: Rules,
    *,
    calibrate: Calibration | str,
    keep: Sequence[str],
) -> Plan:
    """What becomes of `leaves` under `rules`.

    Where a checkpoint has a collection `params`, only that is quantized, and rules know its
    leaves without that name.

    Raises:
        ValueError: As `precis.quantize`: a rule matches nothing, or nothing would be quantized.
    """
    resolved = quant_rules(rules)
    has_params = any(path.startswith(_PARAMS) for path in leaves)
    paths = {path.removeprefix(_PARAMS) if has_params else path for path in leaves}
    ndims: dict[str, int] = {}
    names: dict[str, str] = {}
    quantized, nodes, kept = dict[str, QuantRule](), dict[str, QTensor](), dict[str, str]()
    for path, leaf in leaves.items():
        if not is_float(leaf) or (has_params and not path.startswith(_PARAMS)):
            continue
        own = path.removeprefix(_PARAMS) if has_params else path
        ndims[own] = len(leaf.shape)
        rule = rule_for(resolved, own, len(leaf.shape), keep)
        if rule is None or rule.format is None:
            if len(leaf.shape) > 1:
                kept[path] = _why_kept(resolved, own)
            continue
        axis = rule.axis
        if axis is None:
            axis = attention_axes(own, leaf.shape, rule.format, paths)
        if axis is None:
            axis = usual_axis(own, leaf, rule.format)
        made = _node(leaf, rule.format, axis, calibrate)
        if isinstance(made, str):
            kept[path] = made
        else:
            quantized[path], nodes[path] = QuantRule(rule.pattern, rule.format, axis), made
            names[path] = own
    if not quantized and (odd := [f"{path}: {why}" for path, why in kept.items()]):
        raise ValueError(f"nothing is quantized; {'; '.join(odd[:6])}")
    check_rules(resolved, ndims, keep, is_quantized=bool(quantized))
    return Plan(resolved, quantized, names, nodes, kept)


def usual_axis(path: str, leaf: jax.ShapeDtypeStruct, fmt: ScaledFormat) -> tuple[int, ...] | None:
    """What groups run along where no rule says it: the inputs of a layer.

    A `weight`, as PyTorch and Equinox call it, has its outputs first, [outputs, inputs, …]; so
    channels are along its first axis, and blocks along its second. Rows of an `embedding` are
    looked up one by one. None is what is usual for an array: a `kernel` has its outputs last.

    >>> usual_axis("proj/weight", jax.ShapeDtypeStruct((4, 8), "f4"), quant_rules("int8")[0].format)
    (-1,)
    """
    name, ndim = path.rpartition("/")[2], len(leaf.shape)
    if name == "embedding" and ndim:
        return (-1,)
    if name != "weight" or ndim < 2 or fmt.granularity == "tensor":
        return None
    return (1 - ndim,) if fmt.block else tuple(range(1 - ndim, 0))


def _why_kept(rules: Sequence[QuantRule], path: str) -> str:
    matching = [rule for rule in rules if matches(rule.pattern, path)]
    if matching and matching[-1].format is not None:
        return KEPT_BY_DEFAULT
    return KEPT_BY_RULE


def _node(
    leaf: jax.ShapeDtypeStruct,
    fmt: ScaledFormat,
    axis: tuple[int, ...] | None,
    calibrate: Calibration | str,
) -> QTensor | str:
    """Shapes of what a leaf becomes, or why it cannot be quantized."""
    if leaf.dtype == np.float64:  # which tracing without x64 would not see
        return "it is float64: cast it to float32 first"
    if np.dtype(leaf.dtype).itemsize == 1:
        return f"it has 8 bits already, {leaf.dtype}"
    try:
        return jax.eval_shape(
            lambda x: quantize_array(x, fmt, axis=axis, calibrate=calibrate), leaf
        )
    except (TypeError, ValueError) as error:
        return str(error)
