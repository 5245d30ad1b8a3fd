"""Few-bit dots on CPU in every layout: exact, and none that fails when it runs.

Which layout a dot gets depends on transposes around it, which XLA folds into it. So operands and
results are stored transposed, at random; all numbers are small integers, and sums exact.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.ops.cpu import HAS_FAST_PRODUCTS, dot_on_cpu

SIZES = {"b": 2, "c": 3, "m": 4, "M": 3, "k": 8, "K": 2, "n": 5, "N": 6, "1": 1}
SPECS = [
    ("mk", "kn"),
    ("mMk", "kn"),
    ("mkK", "kKn"),
    ("mMk", "knN"),
    ("bmk", "bkn"),
    ("bcmk", "bckn"),
    ("bmkK", "bkKn"),
    ("1k", "kn"),
    ("k", "kn"),
    ("mk", "k"),
    ("k", "k"),
]
CPU = pytest.mark.skipif(
    not HAS_FAST_PRODUCTS or jax.default_backend() != "cpu", reason="for CPU, since jax 0.10"
)


def numbers(rng, names):
    return rng.integers(-8, 8, [SIZES[name] for name in names])


def axes_of(lhs, rhs):
    shared = [name for name in lhs if name in rhs]
    pairs = [(lhs.index(name), rhs.index(name)) for name in shared]
    split = [[pair for pair, name in zip(pairs, shared, strict=True) if (name in "bc") is batch]
             for batch in (False, True)]  # fmt: skip
    return tuple(tuple(zip(*group, strict=True)) or ((), ()) for group in split)


def result_of(lhs, rhs):
    shared = [name for name in lhs if name in rhs]
    batch = [name for name in shared if name in "bc"]
    return "".join([*batch, *(name for name in [*lhs, *rhs] if name not in shared)])


@CPU
@pytest.mark.world
@pytest.mark.parametrize(("dtype", "accum"), [(jnp.bfloat16, jnp.float32), (jnp.int8, jnp.int32)])
@pytest.mark.parametrize(("left", "right"), SPECS)
@pytest.mark.parametrize("draws", [4, pytest.param(64, marks=pytest.mark.nightly)])
def test_every_layout(left, right, dtype, accum, draws):
    rng = np.random.default_rng(0)
    runs, inputs, wants = [], [], []
    for _ in range(draws):
        lhs, rhs = (rng.permutation(list(names)) for names in (left, right))
        axes = axes_of(list(lhs), list(rhs))
        a, b = numbers(rng, lhs), numbers(rng, rhs)
        spec = f"{''.join(lhs)},{''.join(rhs)}->{result_of(lhs, rhs)}"
        want = np.einsum(spec.replace("1", "o"), a, b)
        stored = [rng.permutation(x.ndim) for x in (a, b, want)]

        def run(a, b, axes=axes, stored=stored):
            # The transposes back are what XLA folds into the dot.
            a, b = (jnp.transpose(x, np.argsort(p)) for x, p in zip((a, b), stored, strict=False))
            return jnp.transpose(dot_on_cpu(a, b, axes, accum), stored[2])

        runs.append(run)
        pairs = zip((a, b), stored, strict=False)
        inputs.append([jnp.asarray(x.transpose(p), dtype) for x, p in pairs])
        wants.append(np.transpose(want, stored[2]))
    # In one program, which takes less time to compile than as many of one product each.
    together = jax.jit(lambda inputs: [run(*x) for run, x in zip(runs, inputs, strict=True)])
    for got, want in zip(together(inputs), wants, strict=True):
        assert got.dtype == accum
        np.testing.assert_array_equal(got, want)


@CPU
@pytest.mark.world
@pytest.mark.parametrize("axes", [(0, None, 0), (None, 2, 1), (1, 0, 2), (2, 1, 0)])
def test_under_vmap(axes):
    rng, (x, w, out) = np.random.default_rng(0), axes
    a = rng.integers(-8, 8, (4, 8) if x is None else np.insert([4, 8], x, 3))
    b = rng.integers(-8, 8, (8, 5) if w is None else np.insert([8, 5], w, 3))
    dims = (((1,), (0,)), ((), ()))
    run = jax.vmap(lambda a, b: dot_on_cpu(a, b, dims, jnp.float32), (x, w), out)
    want = jax.vmap(lambda a, b: lax.dot_general(a, b, dims), (x, w), out)(a, b)
    got = jax.jit(run)(jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16))
    np.testing.assert_array_equal(got, want)
