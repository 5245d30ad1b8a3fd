"""Parameters stored in few bits that still learn: a wide master, stochastic or Kahan updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import jax
import optax
from jax import Array

from precis.formats import FLOAT32, FloatFormat, ScaledFormat
from precis.optim.applied import Apply, Applying, InPlace, add_updates, apply_update
from precis.optim.carried import (
    Carried,
    base_of,
    carried_by,
    coded_of,
    param_of,
    shown,
    update_of,
    updated,
)
from precis.optim.coded import float_storage
from precis.optim.kept import Kept, Rounding, Storage, first_kept, master_format
from precis.optim.norm import widened
from precis.policy import Policy, PolicyRules, read_policy
from precis.quant import QTensor, is_stored
from precis.tree import named_leaves, with_leaves
from precis.types import PyTree, did_you_mean

# The format that a parameter at a path is stored in.
_StorageAt = Callable[[str], Storage]


class MasterState(NamedTuple):
    """What `master_weights` carries from step to step.

    Attributes:
        inner: State of the inner transformation.
        kept: By path, what is kept beside each parameter whose storage is narrow.
    """

    inner: PyTree
    kept: dict[str, Kept]


def master_weights(
    inner: optax.GradientTransformation,
    storage: PolicyRules | Policy | str,
    rounding: Rounding = "nearest",
    *,
    master: FloatFormat | str = "f32",
    seed: int = 0,
) -> Applying:
    """`inner`, for parameters that are stored in fewer bits than they are updated in.

    Rounded to nearest after each step, a parameter stays where it is as soon as its updates are
    less than half of its last place: bfloat16 1 - 1e-3 is 1, a thousand times over. So

    * `nearest` keeps a copy of the parameters in `master`, updates that, and rounds it;
    * `stochastic` keeps none, and rounds up or down at random, right on average;
    * `kahan` keeps, in the storage format, what each rounding left out, and adds it to the next
      update: y = left + u, new = round(p + y), left = round(y - (new - p)).

    Where storage is scaled, parameters are `QTensor`s, and come back as such from `apply_update`
    alone: `nearest` quantizes the master, `stochastic` what the codes stood for with the update
    added, both with new scales in each step. So no entry saturates, and the mean of what is drawn
    is what was meant, where scales are float32 and the grid's ends alike; scales that are rounded
    down, in MX formats by `floor` or `even` and in nvfp4, and the nearer end of `dynamic8` leave
    the largest of a block beyond it. `kahan` is refused there.

    `inner` sees gradients and parameters in float32 or wider. The parameters that it is given must
    be those of the last step, or those of `init`: there they may be wider than storage, and what
    storage lacks of them is kept from the first step on, but for `stochastic`.

    `apply_update` gives parameters in storage exactly. By `optax.apply_updates` they come out the
    same, but for one that shrinks by more than 2^16 in one step, which is off by at most 2^-24 of
    what it was, and one that becomes -0.0. In place, `apply` adds to the master, to the wide
    parameter, or with `kahan` to what was left out. A step that an inner `loss_scaled` skips, or an
    outer one, leaves parameters and state bit for bit, keys included; but with `nearest`, an inner
    one may move scales of `QTensor`s that `init` was given by an ulp. With `stochastic`, replicas
    under vmap or shard_map draw the same bits, and so do shards of one parameter.

    Invariants: with `nearest`, the parameters are the rounded master after every step, and the
    master is what `inner` makes of the same gradients in float32. Parameters whose storage is
    float32 (or wider, or `master` itself) are `inner`'s bit for bit and keep nothing.

    >>> import jax.numpy as jnp
    >>> optimizer = master_weights(optax.sgd(1e-3), "bf16")
    >>> params = {"w": jnp.bfloat16(1)}
    >>> state = optimizer.init(params)
    >>> for _ in range(4):
    ...     params, state, _ = apply_update(optimizer, {"w": jnp.bfloat16(1)}, state, params)
    >>> float(params["w"]), round(float(state.kept["w"].value), 4)
    (0.99609375, 0.996)

    Args:
        inner: Any optax transformation.
        storage: A policy or its text; its param format, by path, is the storage.
        rounding: How parameters come into storage.
        master: Format of the master of `nearest`, a dtype.
        seed: Of the random bits of `stochastic`.

    Raises:
        ValueError: Another rounding; a master that is no dtype, or none of this JAX; in `init`, a
            master that lacks values of the storage; `update` without parameters.

    Source: Micikevicius et al., arXiv:1710.03740 (master); Zamirai et al., arXiv:2010.06192
    (stochastic rounding and Kahan summation of bfloat16 parameters).
    """
    roundings = get_args(Rounding)
    if rounding not in roundings:
        raise ValueError(f"no rounding is called {rounding!r}{did_you_mean(rounding, roundings)}")
    policy = read_policy(storage)
    wide = master_format(master) if rounding == "nearest" else FLOAT32
    wrapped = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> MasterState:
        kept = first_kept(params, policy, rounding, master=wide, seed=seed)
        return MasterState(wrapped.init(shown(_carried(params, kept))), kept)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        in_place: InPlace | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, MasterState]:
        if params is None:
            raise ValueError("master_weights rounds parameters: pass params to update")
        how = in_place or InPlace(add_updates)
        _check_coded(params, state.kept, in_place=in_place is not None)
        carried = _carried(params, state.kept, pending=in_place is None)
        inside = how._replace(
            apply=_storing(how.apply, lambda path: _storage_of(state.kept, policy, path)),
            prepare=lambda grads: widened(how.prepared(grads)),
            seen=shown,
        )
        made = apply_update(inner, updates, state.inner, carried, how=inside, **extra_args)

        nodes = dict(zip(named_leaves(params), _flat_like(params, made.params), strict=True))
        # The second of a node's parts is what is kept.
        kept = {path: replace(old, value=nodes[path][1]) for path, old in state.kept.items()}
        after = MasterState(made.state, kept)
        old = named_leaves(params)
        if in_place is not None:
            before = state.kept
            new = {p: _stored(node, before.get(p), old[p], how.when) for p, node in nodes.items()}
            return (with_leaves(params, new), made.tally), after
        out = {path: update_of(node, old[path]) for path, node in nodes.items()}
        return with_leaves(params, out), after

    return Applying(init, update)


def _carried(params: PyTree, kept: dict[str, Kept], *, pending: bool = False) -> PyTree:
    """`params`, each as it goes through the inner step."""
    named = named_leaves(params)
    return with_leaves(
        params,
        {path: carried_by(leaf, kept.get(path), pending=pending) for path, leaf in named.items()},
    )


def _stored(node: Carried, before: Kept | None, old: Array | QTensor, when: Array | None) -> Any:
    """A parameter after a step, from what was carried of it."""
    if before is not None and isinstance(old, QTensor):
        return coded_of(node, before, old, when)
    return param_of(node)


def _storage_of(kept: dict[str, Kept], policy: PolicyRules, path: str) -> Storage:
    return kept[path].storage if path in kept else float_storage(policy, path)


def _check_coded(params: PyTree, kept: dict[str, Kept], *, in_place: bool) -> None:
    """Checks that what is stored as codes comes as such, and will be written as such."""
    for path, leaf in named_leaves(params).items():
        is_coded = path in kept and isinstance(kept[path].storage, ScaledFormat)
        if is_coded and not is_stored(leaf):
            raise ValueError(
                f"{path} is stored as {kept[path].storage}, got an array: store parameters by "
                "stored_params first, as make_step's init does"
            )
        if is_coded and not in_place:
            raise ValueError(
                f"{path} is stored as {kept[path].storage}, to which optax.apply_updates cannot "
                "add: take the step by apply_update, as make_step does"
            )


def _storing(apply: Apply, storage_at: _StorageAt) -> Apply:
    """`apply` on what is carried of parameters, each then rounded into storage."""

    def store(carried: PyTree, updates: PyTree) -> tuple[PyTree, PyTree]:
        named = named_leaves(updates)
        before = dict(zip(named, _flat_like(updates, carried), strict=True))
        base = with_leaves(updates, {path: base_of(x) for path, x in before.items()})
        added, tally = apply(base, updates)
        after = {
            path: updated(before[path], new, named[path], storage_at(path))
            for path, new in named_leaves(added).items()
        }
        return with_leaves(updates, after), tally

    return store


def _flat_like(tree: PyTree, other: PyTree) -> list[Any]:
    """The subtrees of `other` that stand where `tree` has leaves."""
    return jax.tree.structure(tree, is_leaf=is_stored).flatten_up_to(other)
