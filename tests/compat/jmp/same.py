"""Trees as comparable bits."""

import jax
import numpy as np


def bits(tree):
    return [
        (type(x).__module__.split(".")[0], str(x.dtype), np.asarray(x).tobytes())
        if hasattr(x, "dtype")
        else x
        for x in jax.tree.leaves(tree)
    ]
