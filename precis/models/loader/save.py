"""`save_quantized`: a tree in few bits that is in memory, as `load_quantized` reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from precis.models.loader.source import Kind, kind_for
from precis.models.loader.write import write_checkpoint
from precis.quant import manifest_of
from precis.tree import leaves_with_paths, static_facts
from precis.types import PyTree


def save_quantized(
    tree: PyTree, dst: str | Path, *, kind: Kind | None = None, overwrite: bool = False
) -> None:
    """Writes `tree`, such as the parameters of `precis.quantize_model`, to `dst`.

    What calibration found of a weight's inputs and what smoothing made of them goes with it.
    Invariant: `load_quantized(dst, like=tree) == tree`, bit for bit.

    Args:
        tree: Arrays, `QTensor`s and `Kernel`s.
        dst: A file that ends in `.safetensors`, or a folder.
        kind: `safetensors` or `orbax`; by default what the suffix of `dst` says, else orbax.
        overwrite: Whether what is at `dst` may be replaced.

    Raises:
        ValueError: `kind` and `dst` do not go together.
        FileExistsError: There is something at `dst`, and `overwrite` is not said.
    """
    where = Path(dst)
    leaves = dict(leaves_with_paths(tree))
    write_checkpoint(
        where,
        kind_for(where, kind, "orbax"),
        leaves,
        lambda path: [np.asarray(leaves[path])],
        manifest=manifest_of(static_facts(tree), {}),
        separator="/",
        metadata={},
        overwrite=overwrite,
    )
