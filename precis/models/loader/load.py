"""`load_quantized`: a checkpoint in few bits as the tree that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precis.models.loader.names import nested
from precis.models.loader.source import Source, open_source
from precis.quant import Stored, from_arrays, in_structure, nodes_of, on_device
from precis.types import PyTree


def load_node(source: Source, path: str) -> Stored:
    """One quantized node of a checkpoint in few bits, and nothing else of it.

    Args:
        source: The checkpoint, as `open_source` gives it.
        path: Where the node is.

    Raises:
        ValueError: There is none, or its arrays do not belong together.
    """
    manifest = source.manifest or {}
    if path not in manifest.get("quantized", {}):
        raise ValueError(f"{source.where} has nothing quantized at {path}")
    names = [name for name in source.leaves if name.startswith(f"{path}/")]
    own = {**manifest, "quantized": {path: manifest["quantized"][path]}}
    return from_arrays({name: source.whole(name) for name in names}, own)[path]


def load_quantized(dst: str | Path, *, like: PyTree = None) -> Any:
    """The tree that `quantize_checkpoint` or `save_quantized` wrote.

    Args:
        dst: The file or folder.
        like: A tree with the same paths and shapes, such as that of the floats, of their shapes
            (`jax.eval_shape(model.init, …)`) or of quantized weights, whose structure is wanted.

    Returns:
        `QTensor`s, `Kernel`s and arrays at their stored dtypes, in the structure of `like`;
        without it, dicts in dicts by the parts of paths. Arrays of 64 bits are NumPy's while jax
        runs without them.

    Raises:
        ValueError: No manifest, or one of another version; arrays that are missing, left over, or
            not of the shapes and dtypes that it asks for; paths or shapes other than those of
            `like`. All before any array is read.
        FileNotFoundError: There is nothing.
    """
    source = open_source(dst)
    if source.manifest is None:
        raise ValueError(
            f"{dst} has no manifest of quantized arrays: quantize_checkpoint(src, dst, rules) "
            "makes a checkpoint that has one"
        )
    manifest: Any = source.manifest
    try:
        bits = {path: np.dtype(jnp.dtype(name)) for path, name in manifest["dtypes"].items()}
        shapes = nodes_of(
            {
                path: jax.ShapeDtypeStruct(leaf.shape, bits.get(path, leaf.dtype))
                for path, leaf in source.leaves.items()
            },
            manifest,
        )
        nested(shapes) if like is None else in_structure(shapes, like)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the manifest of {dst} cannot be read: {error!r}") from None
    except ValueError as error:
        raise ValueError(f"{dst}: {error}") from None
    # One by one, so that no more than one is in memory twice.
    dtypes = manifest["dtypes"]
    arrays = {path: on_device(source.whole(path), dtypes.get(path)) for path in source.leaves}
    found = nodes_of(arrays, manifest)
    return nested(found) if like is None else in_structure(found, like)
