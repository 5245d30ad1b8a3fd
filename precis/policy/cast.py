"""jmp's three verbs: change the storage of one tree to a policy's param, compute or output."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from precis.formats import FloatFormat, cast_to, parse_float
from precis.policy.policy import Policy
from precis.policy.rules import PolicyRules, read_policy
from precis.tree import map_floats, map_params
from precis.types import PyTree


def cast_to_param(policy: PolicyRules | Policy | str, tree: PyTree) -> PyTree:
    """`tree` with its float leaves stored in the policy's param format at their paths.

    Raises:
        ValueError: That format has scales, and is no storage of single values.
    """
    rules = read_policy(policy)

    def param_at(path: str) -> FloatFormat:
        fmt = rules.at(path).param
        if not isinstance(fmt, FloatFormat):
            raise ValueError(
                f"{rules}: p={fmt} is codes and scales, not a cast: make_step(...).init stores "
                "parameters so, precis.quantize any tree"
            )
        return fmt

    return _cast_by_path(tree, param_at)


def cast_to_compute(policy: PolicyRules | Policy | str, tree: PyTree) -> PyTree:
    """`tree` with its float leaves stored in the policy's compute format at their paths.

    Raises:
        ValueError: That format is scaled, or an integer: it is no storage of single values.
    """
    rules = read_policy(policy)
    try:
        return _cast_by_path(tree, lambda path: parse_float(rules.at(path).compute))
    except ValueError as error:
        raise ValueError(f"{rules}: {error}") from None


def cast_to_output(policy: PolicyRules | Policy | str, tree: PyTree) -> PyTree:
    """`tree` with its float leaves stored in the policy's output format."""
    return cast_floats(tree, read_policy(policy).base.output)


def cast_floats(tree: PyTree, fmt: FloatFormat) -> PyTree:
    """`tree` with its float leaves [...] in `fmt`: its dtype, or on its carrier if it has none.

    Nearest even; what overflows becomes Inf, as in XLA's cast. Other leaves are untouched.
    """
    return map_floats(lambda x: cast_to(jnp.asarray(x), fmt), tree)


def _cast_by_path(tree: PyTree, format_at: Callable[[str], FloatFormat]) -> PyTree:
    return map_params(lambda path, x: cast_to(jnp.asarray(x), format_at(path)), tree)
