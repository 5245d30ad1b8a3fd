"""jmp's three verbs: change the storage of one tree to a policy's param, compute or output."""

from __future__ import annotations

import jax.numpy as jnp

from precis.formats import FloatFormat, cast_to, parse_float
from precis.policy.grammar import get_policy
from precis.policy.policy import Policy
from precis.tree import map_floats
from precis.types import PyTree


def cast_to_param(policy: Policy | str, tree: PyTree) -> PyTree:
    """`tree` with its float leaves stored in the policy's param format."""
    return cast_floats(tree, get_policy(policy).param)


def cast_to_compute(policy: Policy | str, tree: PyTree) -> PyTree:
    """`tree` with its float leaves stored in the policy's compute format.

    Raises:
        ValueError: That format is scaled, or an integer: it is no storage of single values.
    """
    resolved = get_policy(policy)
    try:
        return cast_floats(tree, parse_float(resolved.compute))
    except ValueError as error:
        raise ValueError(f"{resolved}: {error}") from None


def cast_to_output(policy: Policy | str, tree: PyTree) -> PyTree:
    """`tree` with its float leaves stored in the policy's output format."""
    return cast_floats(tree, get_policy(policy).output)


def cast_floats(tree: PyTree, fmt: FloatFormat) -> PyTree:
    """`tree` with its float leaves [...] in `fmt`: its dtype, or on its carrier if it has none.

    Nearest even; what overflows becomes Inf, as in XLA's cast. Other leaves are untouched.
    """
    return map_floats(lambda x: cast_to(jnp.asarray(x), fmt), tree)
