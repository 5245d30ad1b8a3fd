"""What a function under a policy really runs: its products, read off the compiled program."""

from __future__ import annotations

from collections import Counter
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
        forward: What ran, and how many such products the program has; empty if none was found.
        backward: Likewise in the backward pass; empty without one.
    """

    claimed: tuple[str, ...]
    forward: dict[str, int]
    backward: dict[str, int]

    @property
    def as_claimed(self) -> bool:
        """Whether every product of the forward pass ran as claimed, and at least one was found."""
        return bool(self.forward) and set(self.forward) <= set(self.claimed)


def compiled_products(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    policies: PolicyRules,
    sites: tuple[AuditedSite, ...],
    *,
    params_argnums: Argnums,
    **options: Any,
) -> dict[str, Ran]:
    """For each path, what its products ran in: of the gradient, if `fn` gives a scalar loss.

    Args:
        fn: The function.
        args: Its arguments; arrays may be shapes alone.
        kwargs: Likewise.
        policies: The policy by path.
        sites: What was planned.
        params_argnums: Arguments that hold parameters.
        **options: Others of `autocast`.
    """
    cast = autocast(fn, policies, params_argnums=params_argnums, **options)
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
    lowered = jax.jit(run, compiler_options=_EXACT).lower(*given)
    return _by_path(list(products_in(lowered.compile().as_text() or "")), sites)


def _is_loss(out: Any) -> bool:
    first = out[0] if isinstance(out, tuple) and len(out) == 2 else out
    return getattr(first, "shape", None) == () and jnp.issubdtype(first.dtype, jnp.floating)


def _by_path(products: list[RanProduct], sites: tuple[AuditedSite, ...]) -> dict[str, Ran]:
    found: dict[str, Ran] = {}
    for audited in sites:
        path = audited.site.path
        claimed = found[path].claimed if path in found else ()
        claimed = tuple(dict.fromkeys((*claimed, audited.product)))
        ran: list[Counter[str]] = [Counter(), Counter()]
        for product in products:
            if product.path == path:
                text = product_text(product.lhs, product.rhs, product.out)
                ran[product.is_backward][text] += 1
        found[path] = Ran(claimed, dict(ran[0]), dict(ran[1]))
    return found
