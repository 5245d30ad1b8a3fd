"""The algebra: rearranged and then dequantized is dequantized and then rearranged, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.quant import QTensor, dequantize, quantize_array

FORMATS = ["nvfp4", "minmax"]


def made(fmt, *shape, axis=None):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    calibrate = "absmax"
    if fmt == "minmax":
        fmt, calibrate = "int4@block8", "minmax"
    q = quantize_array(x, fmt, axis=axis, calibrate=calibrate)
    # NumPy's arrays are rearranged without being compiled.
    return jax.tree.map(np.asarray, q)


def same(q, wanted):
    assert isinstance(q, QTensor)
    assert (q.shape, q.ndim, q.size, q.dtype) == (
        wanted.shape,
        wanted.ndim,
        wanted.size,
        wanted.dtype,
    )
    np.testing.assert_array_equal(dequantize(q), wanted)


@pytest.mark.parametrize("fmt", FORMATS)
def test_transposed(fmt):
    q = made(fmt, 2, 24, 5)
    d = np.asarray(dequantize(q))
    same(q.T, d.T)
    same(q.transpose(0, 2, 1), d.transpose(0, 2, 1))
    same(q.transpose((-1, 0, 1)), d.transpose((-1, 0, 1)))
    assert q.T.T.static_facts == q.static_facts
    with pytest.raises(ValueError, match="no order of the axes"):
        q.transpose(0, 0, 1)


@pytest.mark.parametrize("fmt", FORMATS)
def test_indexed_in_front_of_the_groups(fmt):
    q = made(fmt, 3, 24, 5)
    d = np.asarray(dequantize(q))
    same(q[1], d[1])
    same(q[1:], d[1:])
    same(q[::2], d[::2])
    same(jax.jit(lambda q, i: q[i])(q, 2), d[2])


def test_indexed_along_what_shares_a_scale():
    q = made("int8", 24, 6)
    d = np.asarray(dequantize(q))
    same(q[3], d[3])
    same(q[4:9, 1], d[4:9, 1])
    same(q[:, 1:3], d[:, 1:3])
    same(q[..., -1], d[..., -1])
    blocks = made("int8@block8", 20, 6)
    same(blocks[8:16, 2:], np.asarray(dequantize(blocks))[8:16, 2:])
    same(blocks[8:], np.asarray(dequantize(blocks))[8:])


@pytest.mark.parametrize("index", [3, slice(4, 12), slice(0, 12), slice(None, None, 2)])
def test_a_block_is_not_parted(index):
    with pytest.raises(ValueError, match="blocks of 8 run along it: take all of it, or dequantize"):
        made("int8@block8", 20, 6)[index]


@pytest.mark.parametrize("index", [0, slice(0, 2), slice(1, None)])
def test_a_byte_is_not_parted(index):
    with pytest.raises(ValueError, match="codes of 4 bits share bytes along it"):
        made("int4", 24, 6)[:, index]


def test_indices_of_other_kinds_are_refused():
    q = made("int8", 24, 6)
    for index in ([0, 1], np.arange(2), None, True):
        with pytest.raises(TypeError, match="integers and slices"):
            q[index]
    with pytest.raises(IndexError, match="too many indices"):
        q[0, 0, 0]


@pytest.mark.parametrize("fmt", ["int8", "nvfp4"])
def test_rows_of_a_table(fmt):
    table = made(fmt, 11, 24, axis=-1)
    d = dequantize(table)
    rows = jnp.int32([[3, 0], [10, -1]])
    same(table.take(rows, 0), d[rows])
    same(jax.jit(lambda q, i: q.take(i, 0))(table, jnp.int32(4)), d[4])
    same(table.T.take(rows[0], -1), d.T[:, rows[0]])
    assert np.isnan(dequantize(table.take(jnp.int32([11]), 0))).all()
    with pytest.raises(ValueError, match="dequantize it first, or quantize it along another axis"):
        table.take(rows, 1)


@pytest.mark.parametrize(
    ("fmt", "before", "after"),
    [
        ("int8", (4, 6, 5), (2, 2, 6, 5)),
        ("int8", (2, 2, 6, 5), (4, 6, 5)),
        ("int8", (6, 4, 5), (6, 4, 5, 1)),
        ("int8", (3, 3, 4, 6), (36, 6)),
        ("int8", (36, 6), (3, 3, 4, 6)),
        ("int8", (24, 6), (-1, 2, 3)),
        ("int8@tensor", (24, 6), (144,)),
        ("int4@block8", (2, 3, 24, 6), (6, 24, 6)),
        ("nvfp4", (2, 32, 6), (2, 1, 32, 6)),
    ],
)
def test_reshaped(fmt, before, after):
    q = made(fmt, *before, axis=-2 if len(before) == 4 and before[0] == 2 else None)
    d = np.asarray(dequantize(q))
    same(q.reshape(after), d.reshape(after))
    same(q.reshape(*after), d.reshape(after))


@pytest.mark.parametrize(
    ("fmt", "before", "after"),
    [
        ("int8", (24, 6), (144,)),
        ("int8", (24, 6), (6, 24)),
        ("int4@block8", (24, 6), (3, 8, 6)),
        ("int4@channel", (24, 6), (24, 2, 3)),
        ("nvfp4", (4, 32, 6), (128, 6)),
    ],
)
def test_a_reshape_that_parts_groups_is_refused(fmt, before, after):
    with pytest.raises(ValueError, match=r"keeps together along .*: dequantize it first"):
        made(fmt, *before).reshape(after)


def test_sizes_must_match():
    with pytest.raises(TypeError, match="cannot reshape"):
        made("int8", 24, 6).reshape(5, 5)


def test_it_is_no_array_by_accident():
    q = made("int8", 24, 6)
    for use in (np.asarray, jnp.asarray, lambda q: jnp.ones((2, 24)) @ q):
        with pytest.raises(TypeError, match=r"a QTensor \(int8@channel, float32\[24, 6\]\) is not"):
            use(q)


def test_bytes_are_all_bytes():
    assert made("int8", 24, 6).nbytes == 24 * 6 + 6 * 4
    assert made("int4@block8", 24, 5).nbytes == 24 * 3 + 3 * 5 * 4
    assert made("minmax", 24, 6).nbytes == 24 * 3 + 3 * 6 * (4 + 1)
    assert made("mxfp4", 64, 6).nbytes == 64 * 3 + 2 * 6
    assert made("nvfp4", 2, 32, 6).nbytes == 2 * (32 * 3 + 2 * 6 + 4)
