"""What an optimizer's state keeps beside parameters that are stored in few bits."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from precis.formats import FloatFormat, ScaledFormat, cast_to, parse_float
from precis.optim.coded import coded_format, float_storage, opened
from precis.optim.norm import widened
from precis.policy import PolicyRules
from precis.tree import is_float, named_leaves
from precis.types import PyTree

Rounding = Literal["nearest", "stochastic", "kahan"]
Storage: TypeAlias = FloatFormat | ScaledFormat


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["storage", "rounding"]
)
@dataclass(frozen=True, slots=True)
class Kept:
    """What an optimizer's state keeps beside one parameter; a pytree node.

    Attributes:
        value: With `nearest`, the master [...] in its own dtype; with `kahan`, what the last
            rounding left out [...] in storage; with `stochastic`, the key of the next step.
        storage: The parameter's format; a scaled one is that of codes and scales.
        rounding: How it comes into storage.
    """

    value: Array
    storage: Storage
    rounding: Rounding

    @property
    def static_facts(self) -> dict[str, Any]:
        """The format and the rounding, without which a checkpoint's arrays mean nothing."""
        return {"storage": str(self.storage), "rounding": self.rounding}


def first_kept(
    params: PyTree, policy: PolicyRules, rounding: Rounding, *, master: FloatFormat, seed: int
) -> dict[str, Kept]:
    """By path, what is kept beside each parameter that needs it, before the first step.

    Args:
        params: Parameters, which may still be wider than storage.
        policy: Says what they are stored in.
        rounding: How they come into storage.
        master: What they are updated in.
        seed: Of the random bits of `stochastic`.

    Raises:
        ValueError: Neither of a storage and `master` has all values of the other; or what a
            rounding leaves out has no format.
    """
    named = named_leaves(params)
    keys = jax.random.split(jax.random.key(seed), max(len(named), 1))
    kept: dict[str, Kept] = {}
    for key, (path, leaf) in zip(keys, named.items(), strict=len(named) > 0):
        if not is_float(leaf):
            continue
        fmt = coded_format(policy, path, leaf) or float_storage(policy, path)
        if _is_narrow(path, fmt, master, rounding):
            value = _first_value(leaf, rounding, fmt, master=master, key=key)
            kept[path] = Kept(value, fmt, rounding)
    return kept


def reseeded(state: PyTree, seed: int | Array) -> PyTree:
    """An optimizer's state whose stochastic rounding draws the bits of another seed.

    Args:
        state: Of any optimizer; where nothing is rounded at random, it stays as it is.
        seed: [] integer, folded into the keys; it may be traced.
    """

    def fold(node: Any) -> Any:
        if not isinstance(node, Kept) or node.rounding != "stochastic":
            return node
        return replace(node, value=jax.random.fold_in(node.value, seed))

    return jax.tree.map(fold, state, is_leaf=lambda node: isinstance(node, Kept))


def master_format(master: FloatFormat | str) -> FloatFormat:
    """The format of a master, a dtype.

    Raises:
        ValueError: It is none, or none of this JAX.
    """
    fmt = parse_float(master)
    if not fmt.is_native or fmt.bits < 16:
        raise ValueError(f"a master is kept as it is, so it is f32, bf16, f16 or f64, got {fmt}")
    if jax.dtypes.canonicalize_dtype(fmt.dtype) != fmt.dtype:
        raise ValueError(f"master={fmt}: this JAX runs without 64 bits; set jax_enable_x64")
    return fmt


def _first_value(
    leaf: Any, rounding: Rounding, storage: Storage, *, master: FloatFormat, key: Array
) -> Array:
    match rounding:
        case "nearest":
            # A copy, since the caller may donate parameters and state.
            return jnp.copy(cast_to(opened(leaf), master))
        case "kahan":
            assert isinstance(storage, FloatFormat)
            wide = widened(leaf)
            return cast_to(wide - widened(cast_to(wide, storage)), storage)
        case "stochastic":
            return key


def _is_narrow(path: str, storage: Storage, wide: FloatFormat, rounding: Rounding) -> bool:
    """Whether a parameter needs something beside it, to be updated in `wide`.

    Raises:
        ValueError: Neither format has all values of the other; or what a rounding leaves out has no
            format.
    """
    if isinstance(storage, ScaledFormat):
        if rounding == "kahan":
            raise ValueError(
                f"p={storage} at {path!r} with kahan: what is left out of codes is no code; "
                "choose master='f32', which keeps all of it, or 'stochastic', which keeps nothing"
            )
        return True
    if wide.fits_in(storage):
        return False
    if not storage.fits_in(wide):
        raise ValueError(f"master={wide} lacks values of p={storage} at {path!r}; choose f32")
    return True
