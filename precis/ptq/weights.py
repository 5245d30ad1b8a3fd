"""The weights of a model in the modes that rules give them, and which stay in float, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precis.formats import ScaledFormat
from precis.policy import PolicyRules, policy_rules
from precis.ptq.modes import ModeRule, mode_at
from precis.ptq.parameters import check_given, float_parameters
from precis.quant import (
    KEPT,
    KEPT_BY_DEFAULT,
    KEPT_BY_RULE,
    Calibration,
    Kernel,
    QTensor,
    QuantRule,
    Stored,
    as_kernel,
    attention_axes,
    quantize,
    quantize_array,
    read_calibration,
)
from precis.quant import is_stored as _is_stored
from precis.tree import has_collections, map_params, param_path
from precis.types import PyTree, matches

FLOAT = "p=f32,c=f32,g=f32,x=f32,s=f32,o=f32"
"""What a float model computes in, and its gradients: all but the ops that rules name."""


@dataclass(frozen=True)
class Weights:
    """What became of a model's parameters.

    Attributes:
        qparams: The tree of parameters, `QTensor`s and `Kernel`s in place of weights.
        modes: The mode of each weight in few bits, by path.
        kept: Why each other parameter of two axes or more is still in float, by path.
        policy: What each matrix op brings its inputs to.
    """

    qparams: PyTree
    modes: dict[str, str]
    kept: dict[str, str]
    policy: PolicyRules


def quantized_weights(
    params: PyTree,
    rules: Sequence[ModeRule],
    *,
    calibrate: Calibration | str,
    keep: Sequence[str] = KEPT,
    input_amax: Mapping[str, Any],
    smoothing: Mapping[str, Any],
    outliers: int,
) -> Weights:
    """`params` in the modes that `rules` say.

    Args:
        params: The parameters.
        rules: Modes by path.
        calibrate: What groups are scaled by.
        keep: Patterns of what stays in float unless a rule names it.
        input_amax: The largest magnitude of what each weight is multiplied with, by path: a
            number, or one for each of the layers that are stacked along the first axis.
        smoothing: What columns of inputs are divided by, by the path of the weight.
        outliers: How many columns of inputs are multiplied in float where a mode says so.

    Raises:
        ValueError: As `precis.quantize`; a static mode without `input_amax`; `input_amax` or
            `smoothing` of a path that there is not, or of another shape; a weight that is in few
            bits already, and not in those of its mode.
    """
    found, calibrate = float_parameters(params), read_calibration(calibrate)
    check_given("input_amax", input_amax, found)
    check_given("smoothing", smoothing, found)
    quant = [QuantRule(rule.pattern, rule.mode.weight, rule.axis) for rule in rules]
    kept: dict[str, str] = {}
    for path, leaf in found.items():
        rule = mode_at(rules, path)
        if _is_stored(leaf):
            _check_stored(path, leaf, rule)
        if rule is None or rule.mode.weight is None or leaf.ndim < 2 or _is_stored(leaf):
            continue
        axis = rule.axis or attention_axes(path, leaf.shape, rule.mode.weight, found)
        if _is_left(rule, path, keep):
            continue
        reason = _unfit(leaf, rule.mode.weight, axis, calibrate)
        if reason:
            kept[path] = reason
            quant.append(QuantRule(path, None))
        elif axis != rule.axis:
            quant.append(QuantRule(path, rule.mode.weight, axis))
    smoothing = {path: _shaped(by, found[path].ndim) for path, by in smoothing.items()}
    smoothed = _multiplied(params, smoothing) if smoothing else params
    try:
        qparams = quantize(smoothed, quant, calibrate=calibrate, keep=keep)
    except ValueError as error:
        unfit = "".join(f"; {path}: {reason}" for path, reason in [*kept.items()][:1])
        raise ValueError(f"{error}{unfit}") from None
    done = {path: leaf for path, leaf in float_parameters(qparams).items() if _is_stored(leaf)}
    modes = {path: rule.mode for path in done if (rule := mode_at(rules, path))}
    for path, leaf in found.items():
        if path not in done and leaf.ndim >= 2 and path not in kept:
            rule = mode_at(rules, path)
            is_ruled = rule is None or rule.mode.weight is None
            kept[path] = KEPT_BY_RULE if is_ruled else KEPT_BY_DEFAULT
    static = [
        path
        for path, mode in modes.items()
        if mode.is_static and path not in input_amax and as_kernel(done[path]).input_amax is None
    ]
    if static:
        raise ValueError(
            f"w8a8_static wants the largest magnitude of the inputs of {', '.join(static)}: "
            "input_amax={path: number}"
        )

    def finish(key_path: tuple[Any, ...], leaf: Any) -> Any:
        path = param_path(key_path, in_collections=has_collections(params))
        mode = modes.get(path)
        if not isinstance(leaf, QTensor) or mode is None:
            return found.get(path, leaf) if path in smoothing else leaf
        if path in smoothing:
            leaf = replace(leaf, dtype=np.dtype(found[path].dtype))
        elif not (mode.is_static or mode.has_outliers):
            return leaf
        return Kernel(
            leaf,
            _shaped(input_amax[path], leaf.ndim) if mode.is_static else None,
            smoothing.get(path),
            outliers=outliers if mode.has_outliers else 0,
        )

    qparams = jax.tree_util.tree_map_with_path(finish, qparams, is_leaf=_is_stored)
    given = [
        (path, f"c={_compute(done[path].dtype) if mode.inputs == 'float' else mode.inputs}")
        for path, mode in modes.items()
    ]
    names = {path: mode.name for path, mode in modes.items()}
    return Weights(qparams, names, kept, policy_rules(FLOAT, given))


def _multiplied(params: PyTree, smoothing: Mapping[str, Any]) -> PyTree:
    """`params`, those that inputs are smoothed of times what these are divided by, in float32."""

    def times(path: str, leaf: Any) -> Any:
        if path not in smoothing:
            return leaf
        return leaf.astype(np.float32) * smoothing[path]

    return map_params(times, params)


def _is_left(rule: ModeRule, path: str, keep: Sequence[str]) -> bool:
    is_named = QuantRule(rule.pattern, rule.mode.weight).names(path)
    return any(matches(pattern, path) for pattern in keep) and not is_named


def _check_stored(path: str, leaf: Stored, rule: ModeRule | None) -> None:
    """That a weight which is in few bits already is in those that its rule wants."""
    own, wanted = as_kernel(leaf).weight.format, rule.mode.weight if rule else None
    if own != wanted:
        raise ValueError(
            f"{path} is stored as {own} already, and the rules want {wanted or 'float'} there: "
            "give its parameters in float"
        )


def _unfit(leaf: Any, fmt: ScaledFormat, axis: Any, calibrate: Calibration) -> str:
    """Why a parameter cannot be quantized; "" if it can."""
    if leaf.dtype == np.float64:  # which tracing without x64 would not see
        return "it is float64: cast it to float32 first"
    try:
        shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        jax.eval_shape(lambda x: quantize_array(x, fmt, axis=axis, calibrate=calibrate), shape)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _shaped(given: Any, ndim: int) -> Any:
    """Numbers that are given for a weight, with all of its axes."""
    array = jnp.asarray(given, np.float32)
    return array.reshape(*array.shape, *[1] * (ndim - array.ndim))


def _compute(dtype: np.dtype) -> str:
    return "f16" if dtype == np.float16 else "bf16"
