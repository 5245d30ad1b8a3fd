"""What the walker's laws compare, and how."""

import jax
import numpy as np

EXACT = {"xla_allow_excess_precision": False}
# The law's two sides compile to different loops, and XLA may sum a float32 row in another order
# in each. Without its optimizer it does not.
UNOPTIMIZED = EXACT | {"xla_backend_optimization_level": 0}


def compiled(fn, options=EXACT):
    return jax.jit(fn, compiler_options=options)


def assert_same(got, want):
    def same(path, a, b):
        assert a.dtype == b.dtype, jax.tree_util.keystr(path)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(same, got, want)
