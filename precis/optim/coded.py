"""Parameters that are stored as codes and scales between steps: which, and how they come to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import Array

from precis.formats import FLOAT32, FloatFormat, Rounded, ScaledFormat, cast_to
from precis.policy import Policy, PolicyRules, read_policy
from precis.quant import (
    KEPT,
    QTensor,
    QuantRule,
    is_stored,
    open_stored,
    quantize,
    quantize_array,
    quantize_one,
    quantized_format,
    recast,
    rule_for,
)
from precis.tree import is_float, map_params, named_leaves
from precis.types import PyTree, what_there_is


def stored_params(policy: PolicyRules | Policy | str, params: PyTree) -> PyTree:
    """`params` as the policy stores them: in p's dtype at their paths, or as codes and scales.

    Where p is scaled, what `precis.quantize` would quantize becomes a `QTensor`, rounded to
    nearest: the weights of matrix ops. Norms, biases, embeddings and vectors stay in float32,
    unless a rule spells out the last part of their path. What is a `QTensor` already stays one.

    >>> import jax.numpy as jnp
    >>> params = {"dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}}
    >>> stored = stored_params("p=int8", params)["dense"]
    >>> stored["kernel"].format.bits, stored["bias"].dtype
    (8, dtype('float32'))

    Raises:
        ValueError: p is scaled and there is nothing to quantize; or as `precis.quantize`.
    """
    policies = read_policy(policy)
    if rules := _rules(policies):
        params = quantize(params, _with_effect(policies, rules, params))
    return map_params(lambda path, x: cast_to(x, float_storage(policies, path)), params)


def _with_effect(
    policies: PolicyRules, rules: Sequence[QuantRule], params: PyTree
) -> Sequence[QuantRule]:
    """`rules`, but not p's own where it stores nothing: nobody wrote its '**'.

    Raises:
        ValueError: There is no other.
    """
    p, (own, *others) = policies.base.param, rules
    found = {path: x for path, x in named_leaves(params).items() if is_float(x)}
    if isinstance(p, FloatFormat) or any(
        is_stored(x) or rule_for([own], path, x.ndim, KEPT) for path, x in found.items()
    ):
        return rules
    if others:
        return others
    example = next(iter(found), "kernel").rpartition("/")[2]
    raise ValueError(
        f"p={p}: nothing is stored in it, since norms, biases, embeddings and vectors stay in "
        f"float; {what_there_is('**', found)}. A rule that spells out the last part of a path, "
        f"such as '**/{example}: p={p}', stores that all the same"
    )


def float_storage(policies: PolicyRules, path: str) -> FloatFormat:
    """The format of the parameter at `path`, if it is stored as a float."""
    fmt = policies.at(path).param
    return fmt if isinstance(fmt, FloatFormat) else FLOAT32


def coded_format(policies: PolicyRules, path: str, leaf: Array | QTensor) -> ScaledFormat | None:
    """The format in which the parameter at `path` is stored as codes; None if it is a float."""
    if not is_stored(leaf):
        rules = _rules(policies)
        leaf = jax.eval_shape(lambda x: quantize_one(path, x, rules), leaf)
    return leaf.format if isinstance(leaf, QTensor) else None


def opened(leaf: Any) -> Array:
    """[...] a parameter as an array: float32 if it is codes and scales."""
    return open_stored(recast(leaf, np.float32)) if is_stored(leaf) else leaf


def requantized(q: QTensor, wide: Array, key: Array | None = None) -> QTensor:
    """`wide` in the format and along the axes of `q`, with scales of its own.

    Args:
        q: How to store it.
        wide: [...] float32 in the shape of `q`.
        key: A random key, with which entries are rounded by chance, right on average; without, to
            nearest.
    """
    fmt = q.format
    if key is not None:
        fmt = replace(fmt, element=Rounded(fmt.grid, rounding="stochastic"))
    new = quantize_array(wide.astype(np.float32), fmt, axis=q.axes or None, key=key)
    return replace(new, format=q.format, dtype=q.dtype)


def _rules(policies: PolicyRules) -> tuple[QuantRule, ...]:
    """Rules for `quantize`; none if all parameters are floats."""
    given = [("**", policies.base.param)]
    given += [(r.pattern, dict(r.formats)["p"]) for r in policies.rules if "p" in dict(r.formats)]
    if all(isinstance(fmt, FloatFormat) for _, fmt in given):
        return ()
    return tuple(
        QuantRule(pattern, None if isinstance(fmt, FloatFormat) else quantized_format(fmt))
        for pattern, fmt in given
    )
