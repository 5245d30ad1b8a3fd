"""`quantize_checkpoint`: from a checkpoint in float to one in few bits, leaf by leaf."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from precis.models.loader.plan import CHECKPOINT_KEPT, Plan, plan_of
from precis.models.loader.source import Kind, Source, Take, kind_for, open_source
from precis.models.loader.write import node_parts, write_checkpoint
from precis.quant import Calibration, Rules, manifest_of, quantize_pieces
from precis.tree import nbytes

# Of a leaf that stays as it is, entries that are in memory at a time.
_AT_ONCE = 1 << 22


class Written(NamedTuple):
    """A checkpoint in few bits, as it was written.

    Attributes:
        where: The file or folder.
        kind: Its format.
        formats: What each quantized leaf is stored in, by path.
        names: How rules know it, by path: without the collection `params`.
        kept: Why each other float of two axes or more stays as it was, by path.
        bytes_before: Bytes of all arrays of the source.
        bytes_after: Bytes of all arrays that were written.
    """

    where: Path
    kind: Kind
    formats: Mapping[str, str]
    names: Mapping[str, str]
    kept: Mapping[str, str]
    bytes_before: int
    bytes_after: int


def quantize_checkpoint(
    src: str | Path,
    dst: str | Path,
    rules: Rules,
    *,
    kind: Kind | None = None,
    calibrate: Calibration | str = "absmax",
    keep: Sequence[str] = CHECKPOINT_KEPT,
    overwrite: bool = False,
) -> Written:
    """Writes the checkpoint at `src` to `dst`, with the leaves that `rules` say in few bits.

    Streamed: a few megabytes of floats are in memory at a time, and what the largest leaf becomes.
    From orbax, which reads whole arrays, one leaf. All else, norms, integers, fp8, is copied as it
    is stored. `dst` appears when it is complete.

    Paths are names on disk, with `/` for PyTorch's `.`: `model/layers/0/mlp/up_proj/weight`. A
    `weight` is taken to have its outputs first, as PyTorch stores it, so that its channels are
    rows; for one that has not, such as GPT-2's, a rule says the axis of its inputs:
    `("**/c_fc/weight", "int8", -2)`. Kernels of flax' attention are known by their names.

    Args:
        src: See `open_source`.
        dst: A file that ends in `.safetensors`, or a folder.
        rules: See `precis.quantize`.
        kind: `safetensors` or `orbax`; by default what the suffix of `dst` says, else as `src`.
        calibrate: See `precis.quantize`.
        keep: Patterns of paths that stay in float unless a rule names them.
        overwrite: Whether what is at `dst` may be replaced.

    Raises:
        ValueError: `src` is no checkpoint, or one that is quantized already; as `precis.quantize`,
            before anything is read.
        FileNotFoundError: There is nothing at `src`.
        FileExistsError: There is something at `dst`, and `overwrite` is not said.
    """
    source, where = open_source(src), Path(dst)
    if source.manifest is not None:
        raise ValueError(f"{src} is quantized already: load_quantized reads it")
    chosen = kind_for(where, kind, source.kind)
    plan = plan_of(source.leaves, rules, calibrate=calibrate, keep=keep)
    parts = {path: node_parts(path, node) for path, node in plan.nodes.items()}
    leaves = {path: leaf for path, leaf in source.leaves.items() if path not in parts}
    for path, own in parts.items():
        if odd := sorted(own.keys() & source.leaves.keys()):
            raise ValueError(f"{path} would be stored at {odd[0]}, which is there already")
        leaves |= own
    write_checkpoint(
        where,
        chosen,
        leaves,
        _taker(source, plan, parts, calibrate),
        manifest=_manifest(source, plan),
        separator=source.separator,
        metadata=source.metadata,
        overwrite=overwrite,
    )
    formats = {path: str(node.format) for path, node in plan.nodes.items()}
    before, after = nbytes(dict(source.leaves)), nbytes(leaves)
    return Written(where, chosen, formats, plan.names, plan.kept, before, after)


def _manifest(source: Source, plan: Plan) -> dict[str, Any]:
    facts = {path: node.static_facts for path, node in plan.nodes.items()}
    rules = [
        [rule.pattern, None if rule.format is None else str(rule.format), rule.axis]
        for rule in plan.rules
    ]
    return {**manifest_of(facts, {}), "rules": rules, "kept": dict(plan.kept)}


def _taker(
    source: Source,
    plan: Plan,
    parts: Mapping[str, Mapping[str, Any]],
    calibrate: Calibration | str,
) -> Take:
    """Gives the arrays of the new checkpoint; those of a node wait until they are asked for."""
    owners = {name: path for path, own in parts.items() for name in own}
    made: dict[str, np.ndarray] = {}

    def take(name: str) -> Iterable[np.ndarray]:
        path = owners.get(name)
        if path is None:
            return _copied(source, name)
        if name not in made:
            leaf, rule, fill = source.leaves[path], plan.quantized[path], partial(source.fill, path)
            assert rule.format is not None
            node = quantize_pieces(leaf, fill, rule.format, axis=rule.axis, calibrate=calibrate)
            made.update(node_parts(path, node))
        return [made.pop(name)]

    return take


def _copied(source: Source, path: str) -> Iterator[np.ndarray]:
    """A leaf as it is, in pieces along its first axis."""
    leaf = source.leaves[path]
    length, *others = leaf.shape or (1,)
    rows = max(_AT_ONCE // max(math.prod(others), 1), 1)
    for start in range(0, length, rows):
        shape = (min(rows, length - start), *others) if leaf.shape else ()
        piece = np.empty(shape, leaf.dtype)
        source.fill(path, piece, 0, start)
        yield piece
