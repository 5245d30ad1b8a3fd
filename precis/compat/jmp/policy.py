"""jmp's `Policy`: three dtypes, three casts, and a text."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from precis.formats import FLOAT32, cast_to, parse_float
from precis.policy import get_policy as policy_of
from precis.tree import is_float
from precis.types import PyTree


@dataclass(frozen=True)
class Policy:
    """Dtypes for parameters, computation and output.

    Equal policies have equal hashes, however their dtypes were spelled: each becomes jax's own
    scalar type, as `jnp.float16`.

    >>> policy = Policy("float32", np.dtype(np.float16), jnp.float16)
    >>> str(policy)
    'p=full,c=f16,o=f16'
    >>> policy.cast_to_compute({"w": jnp.ones(2), "step": jnp.int32(3)})["w"].dtype
    dtype('float16')

    Attributes:
        param_dtype: Storage of parameters.
        compute_dtype: What is computed in.
        output_dtype: What is given out.

    Raises:
        ValueError: A dtype is not floating-point.
    """

    param_dtype: DTypeLike
    compute_dtype: DTypeLike
    output_dtype: DTypeLike

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            given = getattr(self, field.name)
            object.__setattr__(self, field.name, _scalar_type(given, field.name))

    def cast_to_param(self, x: PyTree) -> PyTree:
        """`x` with its float arrays in `param_dtype`."""
        return _cast(x, self.param_dtype)

    def cast_to_compute(self, x: PyTree) -> PyTree:
        """`x` with its float arrays in `compute_dtype`."""
        return _cast(x, self.compute_dtype)

    def cast_to_output(self, x: PyTree) -> PyTree:
        """`x` with its float arrays in `output_dtype`."""
        return _cast(x, self.output_dtype)

    def with_output_dtype(self, output_dtype: DTypeLike) -> Policy:
        """This policy with another output dtype."""
        return dataclasses.replace(self, output_dtype=output_dtype)

    def __str__(self) -> str:
        """Its text, as jmp writes it; `get_policy` of either library reads it."""
        dtypes = (self.param_dtype, self.compute_dtype, self.output_dtype)
        return ",".join(f"{key}={_name(dtype)}" for key, dtype in zip("pco", dtypes, strict=True))


def get_policy(policy_name: str) -> Policy:
    """The policy of a text: `c=f16`, `params=float32,compute=half,output=full`, `bfloat16`.

    What is left out: parameters are float32, computation follows parameters, output follows
    computation. `half` is `half_dtype()`.

    >>> str(get_policy("c=bf16"))
    'p=full,c=bf16,o=bf16'

    Raises:
        ValueError: An unknown key or dtype, a key given twice, a role that jmp does not have, or
            a format without a dtype.
    """
    text = re.sub(r"\bhalf\b", lambda _: _name(half_dtype()), policy_name)
    policy = policy_of(text)
    if "=" in text:
        for role in policy.roles():
            if role.reason == "given" and role.key not in "pco":
                raise ValueError(
                    f"{policy_name!r}: jmp has params, compute and output, and no {role.name}; "
                    "precis.get_policy reads it, for precis.autocast"
                )
    dtypes = []
    for fmt in (parse_float(policy.param), parse_float(policy.compute), policy.output):
        if fmt.dtype is None:
            raise ValueError(
                f"{policy_name!r}: {fmt} is no dtype to compute in; precis.get_policy reads it, "
                "for precis.autocast"
            )
        dtypes.append(fmt.dtype)
    return Policy(*dtypes)


def cast_to_full(tree: PyTree) -> PyTree:
    """`tree` with its float arrays in float32."""
    return _cast(tree, jnp.float32)


def cast_to_half(tree: PyTree) -> PyTree:
    """`tree` with its float arrays in `half_dtype()`."""
    return _cast(tree, half_dtype())


def half_dtype() -> Any:
    """`jnp.bfloat16` on TPU, `jnp.float16` elsewhere."""
    return jnp.bfloat16 if jax.local_devices()[0].platform == "tpu" else jnp.float16


def _cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """`tree` with its float arrays in `dtype`; numbers and other objects are left, as jmp does."""
    fmt = parse_float(jnp.dtype(dtype).name)

    def cast(x: Any) -> Any:
        if not isinstance(x, np.ndarray | jax.Array) or not is_float(x):
            return x
        # What is NumPy's stays so: it may be a whole model on its way to the device. What has no
        # dtype to compute in is rounded on float32, and then stored.
        return (x if isinstance(x, np.ndarray) else cast_to(x, fmt)).astype(dtype)

    return jax.tree.map(cast, tree)


def _scalar_type(dtype: DTypeLike, name: str) -> Any:
    found = jnp.dtype(dtype)
    if not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"{name}: a floating-point dtype is wanted, got {found.name}")
    return getattr(jnp, found.name, found.type)


def _name(dtype: DTypeLike) -> str:
    fmt = parse_float(jnp.dtype(dtype).name)
    return "full" if fmt == FLOAT32 else str(fmt)
