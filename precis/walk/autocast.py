"""`autocast`: the same function, computed under a policy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from precis.formats import FLOAT32, FloatFormat
from precis.policy import Policy, PolicyRules, read_policy
from precis.quant import is_stored
from precis.walk.arguments import (
    Argnums,
    argument,
    as_weight,
    carried_array,
    check_carriers,
    check_shardings,
    is_array_leaf,
    roles_of_args,
    standin,
)
from precis.walk.emit import emit
from precis.walk.islands import Pins
from precis.walk.kinds import Value
from precis.walk.noise import checked_key
from precis.walk.plan import plan
from precis.walk.program import Program
from precis.walk.unmatched import check_matches

# Roles that forward_mode has no use for.
_BACKWARD = ("g", "gx", "gw", "w")


def autocast(
    fn: Callable[..., Any],
    policy: PolicyRules | Policy | str,
    *,
    params_argnums: Argnums = 0,
    state_argnums: Argnums = (),
    key: Array | None = None,
    forward_mode: bool = False,
    pins: Pins = "respect",
) -> Callable[..., Any]:
    """`fn` with the same signature, its numbers in the formats of `policy`.

    The function is traced, every equation gets a format, and the program is computed anew; `fn`
    and whatever it calls stay as they are, and nothing is left behind. jit, grad, vmap and scan
    compose around it. It traces on every call, so call it inside `jax.jit`.

    Under an f32 policy the results are those of `fn` with matrix ops at full float32 precision.

    Stochastic roles draw their bits from `key`. The key of a matrix op is folded from its path and
    from the trips of the loops around it, so ops, layers and operands round independently, and an
    op that is computed again under `jax.checkpoint` draws the same bits. Equal keys give equal
    bits: give each step its own. `jax.vmap` around the result draws the same bits for each row,
    unless it maps over keys; a `vmap` inside `fn` draws bits for each row.

    Weights in few bits (`precis.quantize`) may stand wherever arrays do: `fn` is traced with floats
    in their place, and their matrix ops multiply the codes as they are stored. A weight's format
    takes the place of kernel; compute decides what the other operand is brought to (`c=int8`:
    integers on integers, `c=bf16`: the weight alone is in few bits). Layout ops move the codes; any
    other op dequantizes the weight for itself, and the audit says so.

    Args:
        fn: Any JAX function of arrays and trees of arrays. Python scalars and other objects
            among its arguments are constants.
        policy: A policy, rules by path, or the text of either.
        params_argnums: Positional arguments that hold parameters: they stay as stored and are
            cast where they are used. Of linen's variables, `params` alone are parameters.
        state_argnums: Positional arguments that hold running statistics: never cast.
        key: [] random key, which a policy with stochastic roles needs, and others ignore. It may be
            an argument of the function around.
        forward_mode: Use JAX's own derivative rules, so that `jax.jvp` works; grad and
            weight_grad formats then have no effect, and must not be given. Tangents are rounded
            with their values in 16-bit dtypes and in formats with float32's exponents or float16's
            grid; in others they stay unrounded.
        pins: What a cast to a 16-bit dtype inside `fn` means: `respect` keeps it and what is
            computed in it, `override` lets the policy decide.

    Returns:
        A function. Float outputs of rank ≥ 1 are in the policy's output format, rank-0 floats in
        sensitive; what derives from parameters or state alone keeps its dtype.

    Raises:
        NotImplementedError: When called, if `fn` uses a higher-order primitive that cannot be
            entered, such as `custom_linear_solve`, or an argument is sharded over explicit axes;
            the message names it and a way out.
        ValueError: `forward_mode` with a grad or weight_grad format that it would ignore; when
            called, stochastic roles without a key.
    """
    resolved = read_policy(policy)
    if pins not in ("respect", "override"):
        raise ValueError(f"pins is 'respect' or 'override', got {pins!r}")
    if forward_mode and (given := _backward_roles(resolved)):
        raise ValueError(f"forward_mode ignores {given}: leave that out of {resolved}")

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        own_key = checked_key(key, resolved)
        how: Any = {"state_argnums": state_argnums, "pins": pins, "forward_mode": forward_mode}
        traced = trace(fn, args, kwargs, resolved, params_argnums, **how)
        results = emit(traced.program, traced.arrays, forward_mode=forward_mode, key=own_key)
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
    forward_mode: bool = False,
) -> Traced:
    """`fn` traced on `args` and planned under `policies`; arrays may be shapes alone.

    Floats narrower than float32 are traced as float32: their dtype is storage and says nothing
    of what the program wants. So each cast to a 16-bit dtype in the trace is the program's own.
    With another format `declared`, they are traced as that, to see what a model makes of it.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=is_stored)
    check_carriers(policies)
    check_shardings(flat)
    roles = roles_of_args(args, params_argnums, state_argnums)
    is_array = [is_array_leaf(leaf) for _, leaf in flat]
    standins = [
        standin(leaf, declared) for (_, leaf), array in zip(flat, is_array, strict=True) if array
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
            value = argument(leaf, path, roles)
            values.append(value)
            # What puts a gradient onto its grid has no derivative that `jax.jvp` takes.
            arrays.append(leaf if forward_mode else as_weight(leaf, value, policies))
    program = plan(jaxpr, values, policies, pins=pins)
    check_matches(policies, program, values, [var.aval for var in jaxpr.jaxpr.invars])
    arrays = [carried_array(array, value) for array, value in zip(arrays, values, strict=True)]
    return Traced(program, arrays, jax.tree.structure(out_shape))


def _backward_roles(policies: PolicyRules) -> str:
    given = [(role.key, role.format) for role in policies.roles() if role.reason == "given"]
    given += [pair for rule in policies.rules for pair in rule.formats]
    return ", ".join(f"{key}={fmt}" for key, fmt in given if key in _BACKWARD)
