"""The one file that reads the fields of equations, which JAX does not document.

Primitives are matched by name: their objects move between JAX versions, their names do not.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

# Move or select elements, and change no bit; between devices, or rows of a vmap with a name, too.
LAYOUT = frozenset(
    "all_gather all_gather_invariant all_to_all broadcast_in_dim concatenate copy copy_p "
    "device_put dynamic_slice expand_dims gather name optimization_barrier pad pcast ppermute "
    "pvary reshape reshard rev sharding_constraint slice split squeeze stack stop_gradient tile "
    "transpose unstack".split()
)
# Between devices, or rows of a vmap with a name: a sum, or the largest.
COLLECTIVES = frozenset("pmax pmin psum psum2 psum_invariant reduce_scatter".split())
# Layout ops whose transpose is a sum: it must not run in 16 bits.
SUMMED_BACKWARD = frozenset({"all_gather", "broadcast_in_dim", "gather", "pcast", "pvary", "tile"})

# Elementwise ops that pick a value or its negative, and never round.
PICKING = frozenset("abs clamp max min neg select_n sign".split())
ELEMENTWISE = PICKING | frozenset(
    "acos acosh add add_any asin asinh atan atan2 atanh cbrt ceil convert_element_type cos cosh "
    "digamma div erf erf_inv erfc exp exp2 expm1 floor integer_pow lgamma log log1p logistic mul "
    "nextafter pow reduce_precision rem round rsqrt sin sinh sqrt square sub tan tanh".split()
)
REDUCTIONS = frozenset(
    "argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce_max reduce_min reduce_prod "
    "reduce_sum".split()
)
# Ops that add many values up, and lose most in few bits.
SUMS = frozenset("cumsum psum psum2 psum_invariant reduce_scatter reduce_sum".split())
MIXED = frozenset(
    "dynamic_update_slice fft reduce_window reduce_window_max reduce_window_min "
    "reduce_window_sum scatter scatter-add scatter_add scatter_max scatter_min scatter_mul "
    "select_and_gather_add select_and_scatter_add sort top_k".split()
)
# What takes several codes out of one integer.
UNPACKING = frozenset(
    "and or not bitcast_convert_type shift_left shift_right_arithmetic shift_right_logical".split()
)
# Nothing among their parameters is a jaxpr, and most equations are one of these.
_BODILESS = LAYOUT | ELEMENTWISE | REDUCTIONS | {"dot_general"}
KNOWN = LAYOUT | ELEMENTWISE | REDUCTIONS | COLLECTIVES | MIXED

_ALWAYS_OPEN = COLLECTIVES | frozenset(
    "cumlogsumexp cumprod cumsum exp exp2 expm1 log log1p pow reduce_max reduce_min reduce_prod "
    "reduce_sum rsqrt sqrt square".split()
)


def never_rounds(eqn: Any) -> bool:
    """Whether the op, and its derivative, are the same in every dtype that has the operands."""
    return eqn.primitive.name in PICKING | {"dynamic_update_slice"}


def opens_island(eqn: Any) -> bool:
    """Whether the equation overflows or cancels easily, and so runs in the sensitive format."""
    match eqn.primitive.name:
        case "integer_pow":
            return eqn.params["y"] % 2 == 0
        case "mul":
            return eqn.invars[0] is eqn.invars[1]
        case name:
            return name in _ALWAYS_OPEN


class Call(NamedTuple):
    """A higher-order equation that the walker enters.

    Attributes:
        kind: `inline`, `remat`, `scan`, `cond`, `while`, `custom_jvp`
            or `shard_map`.
        jaxpr: The body, open, and its constants.
        consts: Values of the body's constvars.
        num_consts: Loops only: operands that every iteration sees whole.
        num_carry: Loops only: operands that iterations hand on.
        others: Further bodies and their constants: a cond's branches from the second on,
            a while's condition.
        num_other_consts: While only: operands, before the others, that its condition sees whole.
    """

    kind: str
    jaxpr: Any
    consts: tuple[Any, ...]
    num_consts: int = 0
    num_carry: int = 0
    others: tuple[tuple[Any, tuple[Any, ...]], ...] = ()
    num_other_consts: int = 0


def call_of(eqn: Any) -> Call | None:
    """The body to walk into, or None if the equation is first-order or opaque."""
    params = eqn.params
    match eqn.primitive.name:
        case "jit" | "pjit":
            return Call("inline", *_open(params["jaxpr"]))
        case "closed_call" | "core_call":
            return Call("inline", *_open(params["call_jaxpr"]))
        case "remat2" | "checkpoint" | "remat":
            return Call("remat", *_open(params["jaxpr"]))
        case "scan":
            return Call("scan", *_open(params["jaxpr"]), *_scan_split(params))
        case "cond":
            first, *others = (_open(branch) for branch in params["branches"])
            return Call("cond", *first, others=tuple(others))
        case "while":
            n, body, condition = params["body_nconsts"], params["body_jaxpr"], params["cond_jaxpr"]
            counts, others = (n, len(eqn.outvars)), (_open(condition),)
            return Call("while", *_open(body), *counts, others, params["cond_nconsts"])
        case name if name.startswith("custom_jvp_call"):
            return Call("custom_jvp", *_open(params["call_jaxpr"]))
        case "shard_map":
            return Call("shard_map", *_open(params["jaxpr"]))
    return None


def parts_of(eqn: Any) -> list[Any]:
    """One equation for each operand, of those that treat each by itself: jax 0.7's collectives."""
    if len(eqn.outvars) != len(eqn.invars) or len(eqn.invars) < 2:
        return [eqn]
    if eqn.primitive.name not in COLLECTIVES | {"pvary"}:
        return [eqn]
    pairs = zip(eqn.invars, eqn.outvars, strict=True)
    return [eqn.replace(invars=[atom], outvars=[var]) for atom, var in pairs]


def varying_axes(aval: Any) -> frozenset[str]:
    """Along which axes of a mesh a value may differ, as far as JAX keeps count."""
    axes = getattr(aval, "vma", None)  # up to jax 0.9
    return axes or getattr(getattr(aval, "manual_axis_type", None), "varying", frozenset())


def shape_of(
    aval: Any, dtype: Any = None, shape: tuple[int, ...] | None = None
) -> jax.ShapeDtypeStruct:
    """Stands in for a value of this type where a function is traced, inside shard_map too."""
    given = {}
    if getattr(aval, "vma", None):  # up to jax 0.9
        given["vma"] = aval.vma
    elif varying_axes(aval):
        given = {"manual_axis_type": aval.manual_axis_type, "sharding": aval.sharding}
    return jax.ShapeDtypeStruct(
        aval.shape if shape is None else shape, dtype or aval.dtype, **given
    )


def remat_options(eqn: Any) -> dict[str, Any]:
    """What `jax.checkpoint` was given."""
    return {key: eqn.params[key] for key in ("policy", "prevent_cse")}


def scan_options(eqn: Any) -> dict[str, Any]:
    """What `lax.scan` was given."""
    return {key: eqn.params[key] for key in ("length", "reverse", "unroll")}


def shard_map_options(eqn: Any) -> dict[str, Any]:
    """What `jax.shard_map` was given, for a function of its operands that returns a list."""
    params = eqn.params
    axes = "newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"
    return {
        "mesh": params["mesh"],
        "in_specs": tuple(params["in_specs"]),
        "out_specs": list(params["out_specs"]),
        "axis_names": set(params[axes]),
        "check_vma": params["check_vma"],
    }


def platforms_of(eqn: Any) -> tuple[tuple[str, ...] | None, ...] | None:
    """For each branch of a cond, the platforms that it is for; None if a value chooses."""
    return eqn.params.get("branches_platforms")


def bodies_of(eqn: Any) -> list[Any]:
    """Every jaxpr, open, among the equation's parameters."""
    if eqn.primitive.name in _BODILESS:
        return []
    found = []
    for value in eqn.params.values():
        for item in jax.tree.leaves(value, is_leaf=_is_jaxpr):
            if _is_jaxpr(item):
                found.append(_open(item)[0])
    return found


def is_opaque_call(eqn: Any) -> bool:
    """Whether the equation carries a differentiation rule of its own and is bound as it is."""
    return eqn.primitive.name.startswith(("custom_jvp_call", "custom_vjp_call"))


def contains(eqn: Any, names: frozenset[str]) -> bool:
    """Whether a primitive of one of these names occurs inside the equation, at any depth."""
    return any(
        inner.primitive.name in names or contains(inner, names)
        for body in bodies_of(eqn)
        for inner in body.eqns
    )


def repeats(eqn: Any) -> int:
    """How often the equation runs its body, as far as that is known: a scan, a Pallas grid."""
    match eqn.primitive.name:
        case "scan":
            return eqn.params["length"]
        case "pallas_call":
            grid = eqn.params["grid_mapping"].grid
            return prod(size for size in grid if isinstance(size, int))
        case _:
            return 1


def rebind(eqn: Any, values: list[Any]) -> list[Any]:
    """The equation run on other values; custom derivative rules come along."""
    is_first_order = eqn.primitive.name in _BODILESS
    if is_first_order or not (is_opaque_call(eqn) or bodies_of(eqn)):
        out = eqn.primitive.bind(*values, **eqn.params)
        return list(out) if eqn.primitive.multiple_results else [out]
    given = {
        atom: value
        for atom, value in zip(eqn.invars, values, strict=True)
        if not isinstance(atom, jex_core.Literal)
    }
    # A body has what a jaxpr of its own would need made up, such as debug information.
    jaxpr = bodies_of(eqn)[0].replace(
        constvars=[], invars=list(given), outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects
    )
    return jax.core.eval_jaxpr(jaxpr, [], *given.values())


def is_traced() -> bool:
    """Whether what is computed now becomes part of a program, as under `jax.jit`.

    Otherwise each op is compiled by itself, and runs.
    """
    return isinstance(jnp.asarray(np.float32(0)), jax.core.Tracer)


def scope_of(eqn: Any) -> str:
    """The name stack at which the equation was traced, such as `jvp(Dense_0)`."""
    return str(eqn.source_info.name_stack)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, jex_core.ClosedJaxpr | jex_core.Jaxpr)


def _open(jaxpr: Any) -> tuple[Any, tuple[Any, ...]]:
    if hasattr(jaxpr, "jaxpr") and hasattr(jaxpr, "consts"):
        return jaxpr.jaxpr, tuple(jaxpr.consts)
    return jaxpr, ()


def _scan_split(params: dict[str, Any]) -> tuple[int, int]:
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = (list(group) for group in params["ft_in"].unpack())
    return len(consts), len(carry)
