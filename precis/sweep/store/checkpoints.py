"""A trial's last state on disk, through orbax: what is restored has the bits that were saved.

Orbax casts without a word when target and file disagree, and cannot save every small float. So a
state is saved as a flat dict of its leaves, floats that NumPy lacks as their bits, and restored
without a target, then checked against the template.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from precis.tree import check_static_facts, leaves_with_paths, plain_dtype, static_facts
from precis.types import PyTree

# What a checkpoint consists of: arrays, and what else it takes to read them.
_ARRAYS, _FACTS = "arrays", "facts"


class Restored(NamedTuple):
    """A state and when it was saved.

    Attributes:
        step: How many steps had been taken.
        state: As it was saved, leaf by leaf.
    """

    step: int
    state: PyTree


@contextmanager
def opened(folder: Path) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints in `folder`: the newest is kept, older ones go when it is safely there."""
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        yield manager


def save(manager: ocp.CheckpointManager, step: int, state: PyTree) -> None:
    """Keeps `state` as that of `step`; a step that is already kept is left as it is.

    Returns when the files are complete: a process killed at any moment leaves either the older
    state or the newer one.
    """
    if manager.latest_step() == step:
        return
    leaves = {path: _to_disk(leaf) for path, leaf in leaves_with_paths(state)}
    args = {
        _ARRAYS: ocp.args.StandardSave(leaves),
        _FACTS: ocp.args.JsonSave(static_facts(state)),
    }
    manager.save(step, args=ocp.args.Composite(**args))
    manager.wait_until_finished()


def restore(manager: ocp.CheckpointManager, template: PyTree) -> Restored | None:
    """The newest state, in the structure of `template`, shapes suffice; None if none was saved.

    Raises:
        ValueError: What was saved has other leaves, shapes, dtypes or static fields, such as a
            moment's format, than `template`.
    """
    step = manager.latest_step()
    if step is None:
        return None
    args = {_ARRAYS: ocp.args.StandardRestore(), _FACTS: ocp.args.JsonRestore()}
    found = manager.restore(step, args=ocp.args.Composite(**args))
    check_static_facts(found[_FACTS], template)
    saved = found[_ARRAYS]
    wanted = dict(leaves_with_paths(template))
    if saved.keys() != wanted.keys():
        odd = sorted(saved.keys() ^ wanted.keys())[:3]
        raise ValueError(f"the checkpoint of step {step} has other leaves, such as {odd}")
    leaves = [_from_disk(path, saved[path], leaf) for path, leaf in wanted.items()]
    return Restored(step, jax.tree.unflatten(jax.tree.structure(template), leaves))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_disk(leaf: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return array.view(plain_dtype(array.dtype))


def _from_disk(path: str, saved: Any, leaf: Any) -> jax.Array:
    array = np.asarray(saved)
    wanted = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    dtype = np.dtype(wanted.dtype)
    if array.dtype != plain_dtype(dtype) or array.shape != wanted.shape:
        raise ValueError(
            f"the checkpoint's {path} is {array.dtype}{list(array.shape)}, "
            f"wanted {dtype}{list(wanted.shape)}"
        )
    restored = jax.numpy.asarray(array.view(dtype))
    if _is_key(leaf):
        return jax.random.wrap_key_data(restored, impl=_key_impl(leaf))
    return restored


def _key_impl(key: Any) -> Any:
    """A key's implementation, which one of shape and dtype alone tells only where it is traced."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), key)
    return found[0]
