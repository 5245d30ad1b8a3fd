"""Optimizer moments in fewer bytes: stored in a policy's m and v, computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import optax

from precis.formats import FloatFormat, Format, ScaledFormat, parse
from precis.optim.blockwise import blockwise
from precis.optim.fields import SECOND, map_moments
from precis.optim.moment import narrowed
from precis.optim.norm import widened
from precis.policy import moment_format
from precis.tree import is_float, map_floats, named_leaves
from precis.types import PyTree, did_you_mean, matches


def stored_moments(
    inner: optax.GradientTransformation,
    m: Format | str,
    v: Format | str,
    *,
    min_size: int = 4096,
    keep: Iterable[str] = (),
) -> optax.GradientTransformationExtraArgs:
    """`inner`, with its moments kept in formats `m` and `v` between steps.

    At any depth of the inner state, a NamedTuple's field `mu` or `trace` is stored in `m` and
    `nu` in `v`; the rest stays as it is, and a state without such fields too. A step widens them,
    the gradients and the parameters to float32 (float64 stays so), runs `inner`, and rounds the
    moments to nearest even on their way back; what overflows becomes Inf, NaN stays NaN. A second
    moment that is positive is never rounded to 0, by whose root its update would be divided, but
    to the smallest value that there is, in float16 2^-24. Updates come out in float32 and are
    rounded once, where they are added.

    If one of the formats has blocks, a leaf of `min_size` entries or more is updated in a loop
    over chunks of it, so that its moments are never all in float32; smaller leaves, and those
    that a pattern of `keep` matches, keep float32 moments. A block that held a NaN is NaN.

    Invariant: with `m` and `v` float32, and float32 gradients and parameters, `inner` bit for bit.

    >>> import jax.numpy as jnp
    >>> state = stored_moments(optax.adam(1e-3), "bf16", "f32").init({"w": jnp.zeros(4)})
    >>> state[0].mu["w"].dtype, state[0].nu["w"].dtype
    (dtype(bfloat16), dtype('float32'))

    Args:
        inner: Any optax transformation; with blocks, one that treats each entry by itself (Adam,
            AdamW, Lion, RMSProp, SGD with momentum).
        m: Format of first moments, or its name: a dtype, or `int8@block256` and its like.
        v: Format of second moments, or its name.
        min_size: Entries of the smallest leaf whose moments are in blocks.
        keep: Patterns of paths of parameters whose moments stay in float32.

    Raises:
        ValueError: A format cannot be a moment's, or `inner` mixes entries; in `init`, `inner`
            keeps more than moments, a pattern matches no parameter, or no leaf is left for blocks.
    """
    first, second = moment_format("m", m), moment_format("v", v)
    patterns = tuple(keep)
    if isinstance(first, FloatFormat) and isinstance(second, FloatFormat):
        if patterns:
            raise ValueError(
                f"keep={patterns}: only moments in blocks leave some out, and m={first}, "
                f"v={second} have none; choose int8@block256 for example"
            )
        return _whole(inner, first, second)
    return blockwise(inner, first, second, kept=_keeper(patterns, min_size))


def quantized_state(
    inner: optax.GradientTransformation,
    m: str = "dynamic8",
    v: str = "dynamic8",
    *,
    block: int = 256,
    min_size: int = 4096,
    keep: Iterable[str] = (),
) -> optax.GradientTransformationExtraArgs:
    """`inner` with moments of 8 bits in blocks: `stored_moments` by the names of their grids.

    For Adam, AdamW, Lion, and SGD with momentum. A quarter of the bytes of float32 moments, and a
    64th for the scales. The dynamic map divides each decade of magnitudes anew, seven of them; for
    second moments, which are never negative, it spends no code on signs.

    >>> import jax.numpy as jnp
    >>> state = quantized_state(optax.adam(1e-3)).init({"w": jnp.zeros(4096)})
    >>> state.leaves["w"][0].nu.codes.shape
    (16, 256)

    Args:
        inner: An optax transformation that treats each entry by itself.
        m: Grid of first moments: `dynamic8`, `int8`, `e4m3fn`, …; or a dtype, as `bf16`.
        v: Grid of second moments: `dynamic8`, `e5m2`, …; or a dtype. A linear one, such as int8,
            is refused: it rounds small second moments to 0.
        block: How many entries share a scale.
        min_size: As for `stored_moments`.
        keep: As for `stored_moments`. Embeddings, whose gradients are rare and large, are worth
            keeping.

    Raises:
        ValueError: As `stored_moments`.

    Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861.
    """
    first, second = (_in_blocks(grid, block) for grid in (m, v))
    return stored_moments(inner, first, second, min_size=min_size, keep=keep)


def _in_blocks(grid: str, block: int) -> Format:
    fmt = parse(grid)
    is_plain = isinstance(fmt, FloatFormat) and fmt.bits >= 16
    return fmt if is_plain or isinstance(fmt, ScaledFormat) else parse(f"{fmt}@block{block}")


def _whole(
    inner: optax.GradientTransformation, first: FloatFormat, second: FloatFormat
) -> optax.GradientTransformationExtraArgs:
    """`inner` with all moments in dtypes, all of them at once."""
    wrapped = optax.with_extra_args_support(inner)

    def store(state: PyTree) -> PyTree:
        def cast(tree: PyTree, name: str) -> PyTree:
            is_second = name in SECOND
            fmt = second if is_second else first
            return map_floats(lambda x: narrowed(x, fmt, is_second=is_second), tree)

        return map_moments(cast, state)

    def init(params: PyTree) -> PyTree:
        return store(wrapped.init(widened(params)))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        state = map_moments(lambda tree, _: widened(tree), state)
        updates, state = wrapped.update(widened(updates), state, widened(params), **extra_args)
        return updates, store(state)

    return optax.GradientTransformationExtraArgs(init, update)


def _keeper(patterns: tuple[str, ...], min_size: int) -> Callable[[PyTree], set[str]]:
    """Says which leaves of a tree keep float32 moments, by their paths."""

    def kept(params: PyTree) -> set[str]:
        named = named_leaves(params)
        for pattern in patterns:
            if not any(matches(pattern, path) for path in named):
                raise ValueError(
                    f"keep {pattern!r} matches no parameter{did_you_mean(pattern, named)}"
                )
        small = {path for path, x in named.items() if not is_float(x) or x.size < min_size}
        kept = {path for path in named if any(matches(pattern, path) for pattern in patterns)}
        if named and len(small | kept) == len(named):
            largest = max(leaf.size for leaf in named.values())
            raise ValueError(
                f"no parameter has its moments in blocks: {len(kept)} of {len(named)} are kept by "
                f"name, and the largest has {largest} entries, where min_size={min_size}; lower "
                "min_size, or store moments in f32 or bf16"
            )
        return small | kept

    return kept
