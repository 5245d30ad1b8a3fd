"""What is known of a function's arguments before it is traced, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType

from precis.formats import FLOAT32, FloatFormat, cast_to, wide_dtype
from precis.policy import PolicyRules
from precis.quant import as_kernel, is_stored
from precis.tree import has_collections, param_path, path_str
from precis.walk.equations import shape_of
from precis.walk.kinds import Kind, Value, format_of
from precis.walk.stored import shape_of_stored

Argnums = int | Sequence[int]


def check_carriers(policies: PolicyRules) -> None:
    """Without x64, JAX would compute in float32 and say nothing."""
    base = policies.base
    formats = [(role.key, getattr(base, role.name)) for role in base.roles()]
    wide = [
        key
        for key, fmt in (*formats, *(pair for rule in policies.rules for pair in rule.formats))
        if isinstance(fmt, FloatFormat) and fmt.carrier.itemsize > 4
    ]
    if wide and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise ValueError(
            f"{policies}: {', '.join(wide)} want float64, which JAX has only with x64 enabled: set "
            "JAX_ENABLE_X64=1, or jax.config.update('jax_enable_x64', True)"
        )


def check_shardings(flat: list[tuple[Any, Any]]) -> None:
    """Backward products would need a sharding for each of their results, which nobody gave."""
    for path, leaf in flat:
        sharding = (
            getattr(jax.typeof(leaf), "sharding", None) if isinstance(leaf, jax.Array) else None
        )
        if sharding is None or not any(sharding.spec):
            continue
        kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
        if AxisType.Explicit in kinds.values():
            raise NotImplementedError(
                f"argument {path_str(path[1:])} is sharded as {sharding.spec} over a mesh with "
                "explicit axes, which autocast does not support: make the mesh with "
                "axis_types=(jax.sharding.AxisType.Auto,) * n"
            )


class Role(NamedTuple):
    """What an argument holds; of linen's variables, collections but `params` are state."""

    kind: Kind
    is_variables: bool


def roles_of_args(args: tuple[Any, ...], params: Argnums, state: Argnums) -> dict[int, Role]:
    """What the positional arguments hold, by their place."""
    roles: dict[int, Role] = {}
    count = len(args)
    for argnums, kind in ((params, Kind.WEIGHT), (state, Kind.STATE)):
        for argnum in (argnums,) if isinstance(argnums, int) else argnums:
            if not -count <= argnum < count:
                raise ValueError(f"argument {argnum} is named as {kind.value}, got {count} of them")
            arg = args[argnum]
            roles[argnum % count] = Role(kind, has_collections(arg))
    return roles


def is_array_leaf(leaf: Any) -> bool:
    """Whether a leaf is an array, a weight in few bits, or the shape of one; else a constant."""
    return is_stored(leaf) or isinstance(
        leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
    )


def standin(leaf: Any, declared: FloatFormat) -> jax.ShapeDtypeStruct:
    """The shape with which a function is traced in place of `leaf`."""
    dtype: Any = jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)
    shape = leaf.shape
    if is_stored(leaf):  # the float varies over devices where its codes do
        leaf = as_kernel(leaf).weight.values
    if jnp.issubdtype(dtype, jnp.floating):
        dtype = wide_dtype(dtype) if declared == FLOAT32 else declared.dtype
    return shape_of(jax.typeof(leaf) if isinstance(leaf, jax.Array) else leaf, dtype, shape)


def argument(leaf: Any, path: tuple[Any, ...], roles: dict[int, Role]) -> Value:
    """What is known of an argument; a path is (args or kwargs, position, *within)."""
    fmt = format_of(leaf.dtype)
    role = roles.get(path[1].idx) if path[0].idx == 0 else None
    if is_stored(leaf):  # a parameter, wherever it comes in
        is_collection = role is not None and role.is_variables and role.kind is Kind.WEIGHT
        name = param_path(path[2:], in_collections=is_collection)
        held = shape_of_stored(leaf)
        return Value(Kind.WEIGHT, fmt, paths=(name,), stored=fmt, stored_as=held)
    if role is None:
        return Value(Kind.POLICY if fmt else Kind.DISCRETE, fmt, data=True)
    within = path[2:]
    is_collection = role.is_variables and role.kind is Kind.WEIGHT
    if role.kind is Kind.STATE or (is_collection and within[0].key != "params"):
        return Value(Kind.STATE if fmt else Kind.DISCRETE, fmt, stored=fmt)
    name = param_path(within, in_collections=is_collection)
    if fmt is None:  # codes of a quantized parameter, or what random numbers are drawn from
        return Value(Kind.DISCRETE, paths=(name,))
    return Value(Kind.WEIGHT, fmt, paths=(name,), stored=fmt)


def carried_array(leaf: Any, value: Value) -> Any:
    """Floats without arithmetic of their own (float8) are widened, which is exact."""
    if isinstance(leaf, jax.ShapeDtypeStruct) or is_stored(leaf) or value.format is None:
        return leaf
    return jnp.asarray(leaf).astype(value.format.dtype)


def as_weight(leaf: Any, value: Value, policies: PolicyRules) -> Any:
    """A parameter, its gradient put onto weight_grad's grid where that is coarser than it."""
    if value.kind is not Kind.WEIGHT or isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    stored, weight_grad = value.stored, policies.at(value.paths[0]).weight_grad
    if is_stored(leaf):
        kernel = as_kernel(leaf)
        if kernel.tangent is None or FLOAT32.fits_in(weight_grad):
            return leaf
        return replace(kernel, tangent=_rounded_gradient(kernel.tangent, weight_grad))
    if stored is None or stored.fits_in(weight_grad):
        return leaf
    return _rounded_gradient(jnp.asarray(leaf), weight_grad)


def _rounded_gradient(x: Array, fmt: FloatFormat) -> Array:
    call = jax.custom_vjp(lambda x: x)
    call.defvjp(
        lambda x: (x, None), lambda _, g: (cast_to(g.astype(FLOAT32.dtype), fmt).astype(g.dtype),)
    )
    return call(x)
