"""What a function under a policy really runs: its products, read off the compiled program."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precis.policy import PolicyRules
from precis.walk.account import AuditedSite, product_text
from precis.walk.arguments import Argnums
from precis.walk.autocast import autocast
from precis.walk.hlo import RanProduct, products_in

_EXACT = {"xla_allow_excess_precision": False}


class Ran(NamedTuple):
    """What the products of one path ran in, as text such as `bf16·bf16→f32`.

    Attributes:
        claimed: What it asks for in the forward pass.
        claimed_backward: What its derivatives ask for.
        forward: What ran, and how many such products the program has; empty if none was found.
        backward: Likewise in the backward pass; empty without one.
        besides: What may run instead where the program is one for CUDA, either way.
    """

    claimed: tuple[str, ...]
    claimed_backward: tuple[str, ...]
    forward: dict[str, int]
    backward: dict[str, int]
    besides: tuple[str, ...] = ()


class Compiled(NamedTuple):
    """The products of a compiled program.

    Attributes:
        ran: Those of each path.
        unnamed: Those that do not say whose they are, as what XLA rewrote need not.
    """

    ran: dict[str, Ran]
    unnamed: dict[str, int]


def compiled_products(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    policies: PolicyRules,
    sites: tuple[AuditedSite, ...],
    *,
    params_argnums: Argnums,
    **options: Any,
) -> Compiled:
    """What the products of each path ran in: of the gradient, if `fn` gives a scalar loss.

    Args:
        fn: The function.
        args: Its arguments; arrays may be shapes alone.
        kwargs: Likewise.
        policies: The policy by path.
        sites: What was planned.
        params_argnums: Arguments that hold parameters.
        **options: Others of `autocast`.
    """
    key = jax.random.key(0)  # any will do, since nothing runs
    cast = autocast(fn, policies, params_argnums=params_argnums, key=key, **options)
    leaves, tree = jax.tree.flatten((args, kwargs))
    is_array = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]

    def merged(arrays: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = iter(arrays)
        pairs = zip(leaves, is_array, strict=True)
        return jax.tree.unflatten(tree, [next(given) if array else x for x, array in pairs])

    def forward(*arrays: Any) -> Any:
        inner_args, inner_kwargs = merged(arrays)
        return cast(*inner_args, **inner_kwargs)

    def gradient(*arrays: Any) -> Any:
        inner_args, inner_kwargs = merged(arrays)
        has_aux = isinstance(out, tuple)
        which = jax.value_and_grad(cast, params_argnums, has_aux=has_aux, allow_int=True)
        return which(*inner_args, **inner_kwargs)

    given = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    out = jax.eval_shape(forward, *given)
    run = gradient if _is_loss(out) else forward
    # JAX's cache on disk takes programs for one that differ in the names of their ops alone, and
    # these names are what is read here. The function's own name it does tell apart.
    names = "\n".join(audited.site.path for audited in sites)
    run.__name__ = f"audited_{hashlib.sha256(names.encode()).hexdigest()[:16]}"
    lowered = jax.jit(run, compiler_options=_EXACT).lower(*given)
    return _by_path(list(products_in(lowered.compile().as_text() or "")), sites)


def _is_loss(out: Any) -> bool:
    first = out[0] if isinstance(out, tuple) and len(out) == 2 else out
    return getattr(first, "shape", None) == () and jnp.issubdtype(first.dtype, jnp.floating)


def _by_path(products: list[RanProduct], sites: tuple[AuditedSite, ...]) -> Compiled:
    counts: dict[tuple[str | None, bool], Counter[str]] = defaultdict(Counter)
    for product in products:
        text = product_text(product.lhs, product.rhs, product.out)
        counts[product.path, product.path is not None and product.is_backward][text] += 1
    ran: dict[str, Ran] = {}
    for audited in sites:
        path = audited.site.path
        before = ran.get(path, Ran((), (), {}, {}))
        ran[path] = Ran(
            tuple(dict.fromkeys((*before.claimed, *audited.products))),
            tuple(dict.fromkeys((*before.claimed_backward, *audited.backward))),
            dict(counts[path, False]),
            dict(counts[path, True]),
            tuple(dict.fromkeys((*before.besides, *audited.besides))),
        )
    return Compiled(ran, dict(counts[None, False]))
