"""A witness for a policy's roundings: does the compiled program do them all?

XLA may drop a pair of converts, keep excess precision, or contract a multiplication and an
addition. A format's emulated twin rounds on integer bits, which no compiler can drop. So a
program in which every rounding shows is compiled under the policy and under its twin, and the
two must agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats import FLOAT32, FloatFormat, Format, parse_float
from precis.policy import Policy, PolicyRules, read_policy
from precis.walk import autocast

_ROWS, _COLUMNS = 64, 64


class Witness(NamedTuple):
    """How a policy's compiled roundings compare with those of its emulated twin.

    Attributes:
        differing: How many values differ, of the results and of the gradients.
        compared: Of how many; 0 if the policy has no 16-bit dtype, and nothing could be dropped.
    """

    differing: int
    compared: int

    @property
    def holds(self) -> bool:
        """Whether the backend did every rounding."""
        return self.differing == 0


def compiled_roundings(
    policy: PolicyRules | Policy | str, compiler_options: Mapping[str, Any] | None = None
) -> Witness:
    """Whether this backend, with these options, rounds where `policy` says.

    The program is sums and products of activations, element by element and over rows, forward and
    backward, where nothing but the compiler's good will keeps a 16-bit intermediate. (Operands and
    results of matrix ops are rounded on their bits, and rules by path are about these alone.) It
    stands for the policy on this backend, not for one model's program.

    Args:
        policy: A policy, rules by path, or the text of either.
        compiler_options: As for `jax.jit`.
    """
    resolved = read_policy(policy).base
    twin = _twin(resolved)
    if twin == resolved:
        return Witness(0, 0)
    ours, theirs = (_run(p, dict(compiler_options or {})) for p in (resolved, twin))
    pairs = zip(ours, theirs, strict=True)
    differs = [int((a.view(np.uint32) != b.view(np.uint32)).sum()) for a, b in pairs]
    return Witness(sum(differs), sum(a.size for a in ours))


def _twin(policy: Policy) -> Policy:
    """`policy` with each 16-bit dtype that it computes in replaced by the emulated equal."""
    stored = {"param", "reduce", "m", "v"}
    changes: dict[str, Any] = {
        field.name: _emulated(getattr(policy, field.name))
        for field in fields(policy)
        if field.name not in stored
    }
    return replace(policy, **changes)


def _emulated(fmt: Format) -> Format:
    if not isinstance(fmt, FloatFormat) or not fmt.is_native or fmt.bits >= FLOAT32.bits:
        return fmt
    return parse_float(f"e{fmt.exponent_bits}m{fmt.mantissa_bits}")


def _run(policy: Policy, options: dict[str, Any]) -> list[np.ndarray]:
    def chain(params: tuple[()], x: Array, y: Array) -> Array:
        del params
        z = x * y + x
        z = (z - y) * 1.7 + jnp.tanh(z) * x
        return z * y - x * 0.3

    def sums(params: tuple[()], x: Array, y: Array, bias: Array) -> tuple[Array, Array]:
        del params
        z = x * y
        return (z + bias) * y, (z * x).mean(0)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, _ROWS, _COLUMNS)).astype(np.float32)
    # Rounded numbers of one size have exact sums in float32, in whatever order they are added.
    near = rng.uniform(1, 2, (3, _ROWS, _COLUMNS)).astype(np.float32)
    program = partial(_both, policy, chain), partial(_both, policy, sums)
    ones = jnp.ones_like(x)
    results = [
        jax.jit(program[0], compiler_options=options)(ones, x, y),
        jax.jit(program[1], compiler_options=options)((near[2], ones[0]), near[0], near[1], x[0]),
    ]
    return [np.asarray(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(results)]


def _both(policy: Policy, fn: Callable[..., Any], cotangents: Any, *arrays: Array) -> Any:
    """Results and gradients of `fn` under `policy`."""
    key = jax.random.key(0)  # no matrix op here draws from it
    out, pull = jax.vjp(lambda *xs: autocast(fn, policy, key=key)((), *xs), *arrays)
    cast = jax.tree.map(lambda c, o: c.astype(o.dtype), cotangents, out)
    return out, pull(cast)
