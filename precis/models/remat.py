"""`remat`: what a backward pass computes anew instead of keeping it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax

from precis.models.saves import SAVES, WORDS
from precis.ops import CODES
from precis.types import did_you_mean

Save = str | Iterable[str] | Callable[..., Any]


def remat(fn: Callable[..., Any], save: Save = "nothing") -> Callable[..., Any]:
    """`fn`, whose backward pass finds `save` of its inner values kept, and computes the rest anew.

    To be used around the body of a `lax.scan` over layers, where it bounds memory: XLA on CPU
    computes unrolled layers once and keeps them all the same. The values and gradients are those
    of `fn`. It goes through `autocast` and composes with jit, grad, vmap and scan.

    >>> import jax.numpy as jnp
    >>> from jax.ad_checkpoint import checkpoint_name
    >>> def layer(x, w):
    ...     return jnp.sin(checkpoint_name(x @ w, "product")), None
    >>> def model(ws, x):
    ...     return jax.lax.scan(remat(layer, save=["product"]), x, ws)[0].sum()
    >>> jax.grad(model)(jnp.ones((3, 2, 2)), jnp.ones(2)).shape
    (3, 2, 2)

    Args:
        fn: Any JAX function.
        save: `nothing` beyond the arguments; `dots`, the results of matrix ops;
            `dots_without_batch`, of those without batch dimensions, as layers with weights have;
            `everything`; `codes`, what the backward pass takes as codes and scales, which a policy
            makes of activations in int8 if its `gw` has no scale. Or the names, as a list, by which
            `jax.ad_checkpoint.checkpoint_name`
            marks values in `fn`: a name that marks nothing saves nothing. Or a policy of
            `jax.checkpoint_policies`, itself or by its name if it needs no arguments.

    Raises:
        ValueError: No policy is called `save`, or the list of names is empty.
        TypeError: `save` is none of these.
    """
    return jax.checkpoint(fn, policy=_policy(save))


def _policy(save: Save) -> Callable[..., Any]:
    if save == "codes":
        return jax.checkpoint_policies.save_only_these_names(CODES)
    if isinstance(save, str):
        name = SAVES.get(save, save)
        if name not in SAVES.values():
            hint = did_you_mean(save, [*WORDS, *SAVES.values()])
            raise ValueError(
                f"remat: no policy is called {save!r}{hint} (names of checkpoint_name are a list: "
                f"save=[{save!r}])"
            )
        return getattr(jax.checkpoint_policies, name)
    if callable(save):
        return save
    if not isinstance(save, Iterable):
        raise TypeError(f"remat: save is a word, a list of names or a policy, got {save!r}")
    names = tuple(save)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"remat: save wants at least one name, and texts only, got {names!r}")
    return jax.checkpoint_policies.save_only_these_names(*names)
