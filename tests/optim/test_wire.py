"""The all-reduce in few bits, against NumPy, on the rows of a vmap as replicas.

On eight devices, with what really travels: tests/train/test_replicas.py.
"""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from precis.formats import Codebook, parse, value_of
from precis.optim import reduce_gradients, varying

REPLICAS = 8
BLOCKS = ["int8@block256", "e4m3fn@block64", "dynamic8@block256", "nf4@block64", "e2m3@block32"]
# What one rounding to float32 costs.
U = 2.0**-24


@functools.partial(jax.jit, static_argnums=(1, 2))
def reduced(grads, fmt, mean=True):
    one = functools.partial(reduce_gradients, axis_name="data", fmt=fmt, mean=mean)
    return jax.vmap(one, axis_name="data")(grads)


def the_same_everywhere(rows):
    """One replica's, after a look at the bits of all others."""
    rows = np.asarray(rows)
    assert {row.tobytes() for row in rows} == {rows[0].tobytes()}
    return rows[0]


def draws(*shape):
    """Of many magnitudes, from replica to replica and row to row."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(3, (REPLICAS, *shape))
    return np.float32(x * 10.0 ** rng.uniform(-6, 3, (REPLICAS, *shape[:-1], 1)))


@pytest.mark.parametrize(
    ("fmt", "dtype", "scale"),
    [
        ("bf16", ml_dtypes.bfloat16, 1.0),
        ("bf16", ml_dtypes.bfloat16, 2.0**-100),
        ("f16", np.float16, 1.0),
        ("f16", np.float16, 2.0**-22),  # subnormals
    ],
)
def test_16_bits_are_rounded_twice_and_nothing_else_is_lost(fmt, dtype, scale):
    # Within a factor of 2^8 of each other, so that float32 holds every sum of eight of them.
    rng = np.random.default_rng(1)
    x = np.float32(rng.choice([-1, 1], (8, 999)) * 2.0 ** rng.uniform(-4, 4, (8, 999)) * scale)
    want = x.astype(dtype).astype(np.float64).mean(0).astype(np.float32).astype(dtype)
    np.testing.assert_array_equal(the_same_everywhere(reduced(x, fmt)), want.astype(np.float32))


def farthest(grid):
    """How far from the grid a value within ± its largest can lie, over that largest."""
    codes = len(grid.values) if isinstance(grid, Codebook) else 1 << grid.bits
    values = (float(value_of(code, grid)) for code in range(codes))
    values = np.unique([v for v in values if abs(v) <= grid.max])
    return max(np.diff(values).max() / 2, values[0] + grid.max) / grid.max


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("fmt", BLOCKS)
def test_blocks_come_as_near_to_the_mean_as_two_quantizations(fmt, mean):
    block, h = parse(fmt).block, farthest(parse(fmt).grid)
    x = draws(16, 3 * block // 4)
    got = the_same_everywhere(reduced(x, fmt, mean)).reshape(-1) / (1 if mean else REPLICAS)
    flat = np.float64(x).reshape(REPLICAS, -1, block)
    largest = np.abs(flat).max(-1).mean(0)[:, None]
    # Beside the grid: a scale, a scaled value and what it stands for take 5 roundings, twice; the
    # sum takes 7 and the division one.
    bound = (2 * (h + 5 * U) + REPLICAS * U) * largest
    error = np.abs(got.reshape(-1, block) - flat.mean(0))
    assert (error <= bound).all()
    assert (error > 0.1 * bound).any()


def test_the_farthest_values_are_what_the_docstring_says():
    assert farthest(parse("int8@block256").grid) == 1 / 254


@pytest.mark.parametrize("fmt", ["f32", "bf16", "f16", *BLOCKS])
@pytest.mark.parametrize("bad", [(np.nan,), (np.inf,), (np.inf, -np.inf)])
def test_what_is_not_finite_on_one_replica_is_finite_on_none(fmt, bad):
    x = np.ones((REPLICAS, 5000), np.float32)
    for replica, value in enumerate(bad):
        x[replica + 2, 4321] = value
    got = the_same_everywhere(reduced(x, fmt))
    assert not np.isfinite(got[4321])
    # Blocks of other shares go through.
    np.testing.assert_array_equal(got[:4000], 1)


def test_what_overflows_the_wire_is_seen_by_all():
    x = np.full((REPLICAS, 3), 6e4, np.float32)
    x[5, 1] = 7e4  # beyond float16
    np.testing.assert_array_equal(the_same_everywhere(reduced(x, "f16")), [60000, np.inf, 60000])
    # The mean of what fits, fits, and is taken before it is rounded.
    np.testing.assert_array_equal(the_same_everywhere(reduced(x, "f16", False)), np.inf)


@pytest.mark.parametrize(("fmt", "most"), [("int8@block256", 127), ("e4m3fn@block64", 448)])
def test_sums_of_codes_never_wrap_nor_overflow(fmt, most):
    # Summed as they are, eight int8 of 127 are -8, and eight e4m3fn of 448 NaN.
    x = np.full((REPLICAS, 300), most, np.float32)
    np.testing.assert_array_equal(the_same_everywhere(reduced(x, fmt, False)), 8 * most)


@pytest.mark.parametrize("fmt", ["f32", "bf16"])
def test_narrow_gradients_are_summed_in_float32(fmt):
    # A running sum in bfloat16 stays at 256.
    x = jnp.concatenate([jnp.full((1, 9), 256.0), jnp.ones((7, 9))]).astype(jnp.bfloat16)
    got = reduced(x, fmt, False)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        the_same_everywhere(got).astype(np.float32), np.float32(ml_dtypes.bfloat16(263))
    )


def test_float32_is_a_plain_mean():
    x = draws(7, 50)
    want = jax.jit(jax.vmap(lambda x: jax.lax.pmean(x, "data"), axis_name="data"))(x)
    np.testing.assert_array_equal(reduced(x, "f32"), want)


@pytest.mark.parametrize("fmt", ["f32", "f16", "int8@block32"])
def test_any_tree(fmt):
    tree = {
        "none": None,
        "count": jnp.arange(8),
        "scalar": jnp.arange(8.0),
        "half": jnp.ones((8, 3), jnp.bfloat16),
        "empty": jnp.ones((8, 0, 2)),
        "unused": np.zeros((8, 2), jax.dtypes.float0),
        "matrix": jnp.ones((8, 5, 7)),
    }
    given = {key: leaf for key, leaf in tree.items() if key != "unused"}
    everywhere = jax.vmap(
        lambda given: reduce_gradients({**given, "unused": tree["unused"]}, "data", fmt),
        axis_name="data",
        out_axes=dict.fromkeys(given, 0) | {"unused": None},
    )
    got = jax.jit(everywhere)(given)
    assert jax.tree.structure(got) == jax.tree.structure(tree)
    for key in given:
        if key != "none":
            assert (got[key].dtype, got[key].shape) == (tree[key].dtype, tree[key].shape)
    np.testing.assert_array_equal(got["count"], tree["count"])
    np.testing.assert_array_equal(got["scalar"], 3.5)
    np.testing.assert_array_equal(got["matrix"], tree["matrix"])
    for nothing in [[], [jnp.ones((8, 0))]]:
        same = jax.vmap(lambda x: reduce_gradients(x, "data", fmt), axis_name="data", axis_size=8)
        assert jax.tree.map(jnp.shape, same(nothing)) == jax.tree.map(jnp.shape, nothing)


def on_one_device(fn, *args, **options):
    mesh = Mesh(np.array(jax.devices()[:1]), "data")
    return jax.make_jaxpr(jax.shard_map(fn, mesh=mesh, in_specs=P(), out_specs=P(), **options))(
        *args
    )


@pytest.mark.parametrize(("fmt", "parts"), [("bf16", 1), ("int8@block256", 2)])
def test_small_leaves_travel_together_and_large_ones_alone(fmt, parts):
    sizes = [10, 20, 5 << 20, 1 << 20, 2 << 20, 2 << 20]
    leaves = [jax.ShapeDtypeStruct((n,), jnp.float32) for n in sizes]
    program = on_one_device(
        lambda g: reduce_gradients(varying(g, "data"), "data", fmt), leaves
    ).pretty_print()
    # 10 and 20; 5M; 1M and 2M; 2M.
    assert program.count(" all_to_all[") == 4 * parts


@pytest.mark.world
def test_gradients_that_jax_has_summed_already_are_refused():
    def local(w):
        grads = {"w": jax.grad(lambda w: (w**2).sum())(w)}
        return reduce_gradients(grads, "data", "bf16")

    with pytest.raises(ValueError, match=r"gradient w does not vary over 'data'.*varying\(params"):
        on_one_device(local, jnp.ones(3))
    on_one_device(local, jnp.ones(3), check_vma=False)


def test_bad_input():
    with pytest.raises(ValueError, match="r=int8: sent in few bits, it wants blocks"):
        reduced(jnp.ones((8, 1)), "int8")
    with pytest.raises(TypeError, match="gradients must be real"):
        reduced(jnp.ones((8, 1), jnp.complex64), "f32")
