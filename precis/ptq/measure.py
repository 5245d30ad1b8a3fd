"""`report`: what each weight in few bits does to the model's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.ptq.model import QuantizedModel
from precis.ptq.modes import mode_at
from precis.ptq.parameters import stored_and_float
from precis.ptq.rows import Report, Row
from precis.ptq.weight_facts import sqnr_db, weight_facts
from precis.quant import as_kernel, is_stored
from precis.tree import has_collections, is_float, nbytes, param_path
from precis.types import PyTree
from precis.walk import Product, observed


def report(
    fn: QuantizedModel,
    params: PyTree,
    qparams: PyTree,
    *args: Any,
    loss: Callable[[Any], Any] | None = None,
    per_weight: bool = True,
    **kwargs: Any,
) -> Report:
    """What each weight of a quantized model lost, and what that does to its output.

    The output is all float arrays that the model returns; of one that returns numbers alone,
    such as a loss, it is the result of the last matrix op that has a weight. The model is run
    once in float, once in few bits, and twice for each weight, with that one alone in few bits
    and with all up to it: each time another program, which is compiled anew.

    >>> import jax.numpy as jnp
    >>> from precis import quantize_model
    >>> weights = {"kernel": jnp.float32([[1.0, -2.0], [0.5, 4.0]])}
    >>> fn, qparams = quantize_model(lambda p, x: x @ p["kernel"], weights, "w8a8")
    >>> found = report(fn, weights, qparams, jnp.ones((1, 2)), loss=jnp.sum)
    >>> found.rows[0].rule, found.rows[0].alone_db == found.output_db, found.loss_before
    ('**', True, 3.5)

    Args:
        fn: What `quantize_model` made.
        params: The parameters in float that it was made of.
        qparams: Those in few bits that it made.
        *args: What the model takes after the parameters: one batch.
        loss: From what the model returns to a number.
        per_weight: Whether to run it twice for each weight.
        **kwargs: As the model takes them.

    Raises:
        ValueError: `params` is not the tree that `qparams` was made of, or the two are swapped.
    """
    pairs = stored_and_float(params, qparams)
    if not pairs:
        raise ValueError("qparams hold no weight in few bits: report(fn, params, qparams, *args)")
    run = _Runs(fn, {path: pair[0] for path, pair in pairs.items()}, qparams, args, kwargs, loss)
    exact, loss_before, order = run.of(())
    paths = sorted(pairs, key=lambda path: order.index(path) if path in order else len(order))
    whole, loss_after, _ = run.of(tuple(paths))

    def ratio(out: np.ndarray) -> float:
        wide = exact.astype(np.float64)
        return sqnr_db(float(np.sum(wide**2)), float(np.sum((out - wide) ** 2)))

    rows = []
    for count, path in enumerate(paths, start=1):
        float_leaf, stored = pairs[path]
        facts, rule = weight_facts(float_leaf, stored), mode_at(fn.rules, path)
        alone, cumulative = _Figures(None, None), _Figures(None, None)
        if per_weight:
            out, figure, _ = run.of((path,))
            alone = _Figures(ratio(out), figure)
            out, figure, _ = run.of(tuple(paths[:count]))
            cumulative = _Figures(ratio(out), figure)
        rows.append(
            Row(
                path=path,
                mode=fn.modes[path],
                format=str(as_kernel(stored).weight.format),
                rule=rule.pattern if rule else "",
                weight_db=facts.sqnr_db,
                alone_db=alone.sqnr_db,
                cumulative_db=cumulative.sqnr_db,
                loss_alone=alone.loss,
                loss_cumulative=cumulative.loss,
                clipped=facts.clipped,
                zeros=facts.zeros,
                bytes_before=nbytes(float_leaf),
                bytes_after=nbytes(stored),
            )
        )
    return Report(
        rows=tuple(rows),
        kept=dict(fn.kept),
        bytes_before=nbytes(params),
        bytes_after=nbytes(qparams),
        output_db=ratio(whole),
        loss_before=loss_before,
        loss_after=loss_after,
    )


class _Figures(NamedTuple):
    sqnr_db: float | None
    loss: float | None


class _Runs(NamedTuple):
    """A model, its weights in float and in few bits, and what to run it on."""

    fn: QuantizedModel
    floats: Mapping[str, Any]
    qparams: PyTree
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    loss: Callable[[Any], Any] | None

    def of(self, paths: tuple[str, ...]) -> tuple[np.ndarray, float | None, list[str]]:
        """Output and loss with these weights in few bits, and the paths of matrix ops in order."""
        in_collections = has_collections(self.qparams)

        def pick(key_path: tuple[Any, ...], leaf: Any) -> Any:
            path = param_path(key_path, in_collections=in_collections)
            return leaf if path in paths else self.floats.get(path, leaf)

        tree = jax.tree_util.tree_map_with_path(pick, self.qparams, is_leaf=is_stored)
        rules = tuple(rule for rule in self.fn.policy.rules if rule.pattern in paths)
        policy = replace(self.fn.policy, rules=rules)

        @jax.jit
        def run(tree: PyTree, args: Any) -> tuple[Any, Any, Any]:
            call = observed(self.fn.call, policy, _result)
            out, readings = call(tree, *args, **self.kwargs)
            seen = [reading for reading in readings if reading.seen is not None]
            arrays = _arrays(out) or [reading.seen for reading in seen[-1:]]
            sites = [replace(reading, seen=None) for reading in seen]
            return arrays, self.loss(out) if self.loss else None, sites

        arrays, loss, sites = jax.device_get(run(tree, self.args))
        order = [reading.site.path for reading in sites]
        flat = [np.asarray(x, np.float32).ravel() for x in arrays]
        return np.concatenate(flat or [np.zeros(0)]), None if loss is None else float(loss), order


def _result(op: Product) -> Array | None:
    return op.out if op.has_one_weight else None


def _arrays(out: Any) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(out) if is_float(leaf) and jnp.ndim(leaf)]
