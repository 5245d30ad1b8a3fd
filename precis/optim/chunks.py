"""One leaf of a tree, updated in place, a chunk at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from precis.optim.applied import Applied, zeros_like
from precis.optim.fields import moments_of, seconds_of, with_moments
from precis.optim.moment import Moment, encoded, read, width_of, write
from precis.optim.norm import widened
from precis.optim.words import Words, map_words, settled, words_of
from precis.tree import is_float
from precis.types import PyTree

# Entries that are decoded at a time: their float32 values stay in a core's cache. On CPU a quarter
# of it takes a tenth longer, and four times as many a fifth.
_CHUNK = 1 << 18


class Leaf(NamedTuple):
    """What a step needs of one parameter.

    Attributes:
        path: Its path.
        grad: [...] floating, its gradient.
        param: What is kept of the parameter: arrays in its shape, and scalars; usually one array.
            None if the optimizer was not given any.
    """

    path: str
    grad: Array
    param: PyTree


Step = Callable[[dict[str, Array], PyTree, Any], Applied]


def in_chunks(
    step: Step, leaf: Leaf, state: PyTree, *, in_params: bool, when: Array | None
) -> Applied:
    """`step` on all of a leaf, a chunk at a time, its moments decoded and encoded again.

    What a step gives is written where it came from: new parameters over the old ones, updates over
    the gradients.

    Args:
        step: From parts of gradients, state and parameters, each a dict of one path, to what
            `apply_update` gives of them.
        leaf: The whole leaf.
        state: Its inner state, with moments in storage.
        in_params: Whether `step` gives new parameters; otherwise it gives updates.
        when: [] bool, whether to do anything; None is always.
    """
    width = math.lcm(*(width_of(moment) for moment in moments_of(state)))
    path, shape, grad = leaf.path, leaf.grad.shape, words_of(leaf.grad, width)
    param = jax.tree.map(lambda x: words_of(x, width) if is_float(x) else x, leaf.param)
    full = max(_CHUNK // width, 1) * width

    def chunk(start: Any, size: int, out: PyTree, moments: list[Any]) -> tuple[Any, Applied]:
        def part(tree: PyTree) -> Any:
            cut = lambda x: x.rows(start, size, width) if isinstance(x, Words) else x  # noqa: E731
            return None if tree is None else {path: map_words(cut, tree)}

        def put(old: Any, new: Array) -> Any:
            return old.put(new.reshape(-1)[:size], start) if isinstance(old, Words) else new

        opened = with_moments(state, ({path: read(x, start, size, width)} for x in moments))
        done = step(part(grad if in_params else out), opened, part(out if in_params else param))
        updated = settled(done.params[path], start, leaf.grad)
        after = zip(moments, moments_of(done.state), seconds_of(state), strict=True)
        new = [encoded(x, size, tree[path], is_second=second) for x, tree, second in after]
        new = settled(new, start, leaf.grad)
        written = [write(x, start, part) for x, part in zip(moments, new, strict=True)]
        return (map_words(put, out, updated), written), done

    out = param if in_params else words_of(widened(leaf.grad), width)
    assert out is not None
    count = math.prod(shape)
    before = (count - 1) // full  # chunks before the last one, which may be shorter
    finish = functools.partial(chunk, before * full, count - before * full)
    moments = [x if isinstance(x, Moment) else words_of(x, width) for x in moments_of(state)]
    carry = (out, moments)
    tally = zeros_like(jax.eval_shape(lambda *carry: finish(*carry)[1].tally, *carry))

    def body(i: Array, carry: Any) -> Any:
        carry, tally = carry
        carry, done = chunk(i * full, full, *carry)
        return carry, jax.tree.map(jnp.add, tally, done.tally)

    def end(_: Any, carry: Any) -> Any:
        carry, tally, _ = carry
        carry, done = finish(*carry)
        return carry, jax.tree.map(jnp.add, tally, done.tally), _bare(done.state)

    # No cond around them, which would copy the leaf: a loop may go round not once. And the shorter
    # chunk comes last, since its update before a loop would copy the leaf as well.
    times = 1 if when is None else when.astype(jnp.int32)
    if before:
        carry, tally = lax.fori_loop(0, before * times, body, (carry, tally))
    (out, moments), tally, other = lax.fori_loop(0, times, end, (carry, tally, _bare(state)))
    whole = map_words(lambda x: x.floats.reshape(shape) if isinstance(x, Words) else x, out)
    moments = [x.floats if isinstance(x, Words) else x for x in moments]
    return Applied({path: whole}, with_moments(other, moments), tally)


def _bare(state: PyTree) -> PyTree:
    """What a state holds beside moments, the same in every chunk of a step."""
    return with_moments(state, (None for _ in moments_of(state)))
