"""`autocast`: the same function, computed under a policy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats import FLOAT32, FloatFormat, cast_to, wide_dtype
from precis.policy import Policy, PolicyRules, read_policy
from precis.tree import has_collections, param_path
from precis.walk.emit import emit
from precis.walk.equations import shape_of
from precis.walk.islands import Pins
from precis.walk.kinds import Kind, Value, format_of
from precis.walk.plan import plan
from precis.walk.program import Program
from precis.walk.unmatched import check_matches

Argnums = int | Sequence[int]


def autocast(
    fn: Callable[..., Any],
    policy: PolicyRules | Policy | str,
    *,
    params_argnums: Argnums = 0,
    state_argnums: Argnums = (),
    forward_mode: bool = False,
    pins: Pins = "respect",
) -> Callable[..., Any]:
    """`fn` with the same signature, its numbers in the formats of `policy`.

    The function is traced, every equation gets a format, and the program is computed anew; `fn`
    and whatever it calls stay as they are, and nothing is left behind. jit, grad, vmap and scan
    compose around it. It traces on every call, so call it inside `jax.jit`.

    Under an f32 policy the results are those of `fn` with matrix ops at full float32 precision.

    Args:
        fn: Any JAX function of arrays and trees of arrays. Python scalars and other objects
            among its arguments are constants.
        policy: A policy, rules by path, or the text of either.
        params_argnums: Positional arguments that hold parameters: they stay as stored and are
            cast where they are used. Of linen's variables, `params` alone are parameters.
        state_argnums: Positional arguments that hold running statistics: never cast.
        forward_mode: Use JAX's own derivative rules, so that `jax.jvp` works; grad and
            weight_grad formats then have no effect, and must not be given.
        pins: What a cast to a 16-bit dtype inside `fn` means: `respect` keeps it and what is
            computed in it, `override` lets the policy decide.

    Returns:
        A function. Float outputs of rank ≥ 1 are in the policy's output format, rank-0 floats in
        sensitive; what derives from parameters or state alone keeps its dtype.

    Raises:
        NotImplementedError: When called, if `fn` uses a higher-order primitive that cannot be
            entered, such as `custom_linear_solve`; the message names it and a way out.
        ValueError: `forward_mode` with a grad or weight_grad format that it would ignore.
    """
    resolved = read_policy(policy)
    if pins not in ("respect", "override"):
        raise ValueError(f"pins is 'respect' or 'override', got {pins!r}")
    if forward_mode and (given := _backward_roles(resolved)):
        raise ValueError(f"forward_mode ignores {given}: leave that out of {resolved}")

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        traced = trace(
            fn, args, kwargs, resolved, params_argnums, state_argnums=state_argnums, pins=pins
        )
        results = emit(traced.program, traced.arrays, forward_mode=forward_mode)
        return jax.tree.unflatten(traced.out_tree, results)

    return wrapped


class Traced(NamedTuple):
    """A function traced and planned on one set of arguments.

    Attributes:
        program: The plan.
        arrays: The array arguments, in the program's order, as the program wants them.
        out_tree: Structure of the results.
    """

    program: Program
    arrays: list[Array]
    out_tree: Any


def trace(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    policies: PolicyRules,
    params_argnums: Argnums = 0,
    *,
    state_argnums: Argnums = (),
    pins: Pins = "respect",
    declared: FloatFormat = FLOAT32,
) -> Traced:
    """`fn` traced on `args` and planned under `policies`; arrays may be shapes alone.

    Floats narrower than float32 are traced as float32: their dtype is storage and says nothing
    of what the program wants. So each cast to a 16-bit dtype in the trace is the program's own.
    With another format `declared`, they are traced as that, to see what a model makes of it.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path((args, kwargs))
    _check_carriers(policies)
    roles = _roles_of_args(args, params_argnums, state_argnums)
    is_array = [_is_array(leaf) for _, leaf in flat]
    standins = [
        _standin(leaf, declared) for (_, leaf), array in zip(flat, is_array, strict=True) if array
    ]

    def on_arrays(*arrays: Any) -> Any:
        given = iter(arrays)
        leaves = [
            next(given) if array else leaf for (_, leaf), array in zip(flat, is_array, strict=True)
        ]
        inner_args, inner_kwargs = jax.tree_util.tree_unflatten(tree, leaves)
        return fn(*inner_args, **inner_kwargs)

    jaxpr, out_shape = jax.make_jaxpr(on_arrays, return_shape=True)(*standins)
    values: list[Value] = []
    arrays: list[Any] = []
    for (path, leaf), array in zip(flat, is_array, strict=True):
        if array:
            value = _argument(leaf, path, roles)
            values.append(value)
            arrays.append(_as_weight(leaf, value, policies))
    program = plan(jaxpr, values, policies, pins=pins)
    check_matches(policies, program, values, [var.aval for var in jaxpr.jaxpr.invars])
    arrays = [_carried(array, value) for array, value in zip(arrays, values, strict=True)]
    return Traced(program, arrays, jax.tree.structure(out_shape))


def _backward_roles(policies: PolicyRules) -> str:
    given = [(role.key, role.format) for role in policies.roles() if role.reason == "given"]
    given += [pair for rule in policies.rules for pair in rule.formats]
    return ", ".join(f"{key}={fmt}" for key, fmt in given if key in ("g", "w"))


def _check_carriers(policies: PolicyRules) -> None:
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


class _Role(NamedTuple):
    """What an argument holds; of linen's variables, collections but `params` are state."""

    kind: Kind
    is_variables: bool


def _roles_of_args(args: tuple[Any, ...], params: Argnums, state: Argnums) -> dict[int, _Role]:
    roles: dict[int, _Role] = {}
    count = len(args)
    for argnums, kind in ((params, Kind.WEIGHT), (state, Kind.STATE)):
        for argnum in (argnums,) if isinstance(argnums, int) else argnums:
            if not -count <= argnum < count:
                raise ValueError(f"argument {argnum} is named as {kind.value}, got {count} of them")
            arg = args[argnum]
            roles[argnum % count] = _Role(kind, has_collections(arg))
    return roles


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _standin(leaf: Any, declared: FloatFormat) -> jax.ShapeDtypeStruct:
    dtype: Any = jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)
    if jnp.issubdtype(dtype, jnp.floating):
        dtype = wide_dtype(dtype) if declared == FLOAT32 else declared.dtype
    return shape_of(jax.typeof(leaf) if isinstance(leaf, jax.Array) else leaf, dtype)


def _argument(leaf: Any, path: tuple[Any, ...], roles: dict[int, _Role]) -> Value:
    """What is known of an argument; a path is (args or kwargs, position, *within)."""
    fmt = format_of(leaf.dtype)
    role = roles.get(path[1].idx) if path[0].idx == 0 else None
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


def _carried(leaf: Any, value: Value) -> Any:
    """Floats without arithmetic of their own (float8) are widened, which is exact."""
    if isinstance(leaf, jax.ShapeDtypeStruct) or value.format is None:
        return leaf
    return jnp.asarray(leaf).astype(value.format.dtype)


def _as_weight(leaf: Any, value: Value, policies: PolicyRules) -> Any:
    """A parameter, its gradient put onto weight_grad's grid where that is coarser than it."""
    if value.kind is not Kind.WEIGHT or isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    stored, weight_grad = value.stored, policies.at(value.paths[0]).weight_grad
    if stored is None or stored.fits_in(weight_grad):
        return leaf
    return _rounded_gradient(jnp.asarray(leaf), weight_grad)


def _rounded_gradient(x: Array, fmt: FloatFormat) -> Array:
    call = jax.custom_vjp(lambda x: x)
    call.defvjp(
        lambda x: (x, None), lambda _, g: (cast_to(g.astype(FLOAT32.dtype), fmt).astype(g.dtype),)
    )
    return call(x)
