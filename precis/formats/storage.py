"""The dtypes in which values and codes of a format are kept."""

from __future__ import annotations

import ml_dtypes
import numpy as np

# Only these have a dtype whose arithmetic XLA knows. The decision is by name and never by
# equality: `e8m7` holds the same numbers as bfloat16 and is emulated all the same, which makes
# it an independent check of the native one.
NATIVE = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def stored_dtype(name: str, bits: int, kind: str = "uint") -> np.dtype:
    """The dtype of this name; else the narrowest `kind` of integers with at least `bits`."""
    # ml_dtypes keeps formats below 8 bits in a byte each; XLA has no 6-bit arrays at all.
    if named := getattr(ml_dtypes, name, None):
        return np.dtype(named)
    return NATIVE.get(name) or np.dtype(
        f"{kind}{next(width for width in (8, 16, 32, 64) if bits <= width)}"
    )
