"""An array in pieces becomes what the whole array becomes, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.quant import quantize_array, quantize_pieces

CASES = [
    ((48, 40), "int8", None, "absmax"),
    ((48, 40), "int8", -1, "absmax"),
    ((48, 40), "int8", None, "minmax"),
    pytest.param((48, 40), "int8", None, "percentile=99", marks=pytest.mark.nightly),
    ((48, 40), "int8", None, "mse"),
    ((48, 44), "int4@block32", -1, "absmax"),
    pytest.param((48, 44), "int4", -2, "absmax", marks=pytest.mark.nightly),
    ((3, 48, 44), "int3@channel", -2, "minmax"),
    ((44, 3), "int3@channel", -2, "minmax"),
    pytest.param((100, 30), "nf4", None, "absmax", marks=pytest.mark.nightly),
    ((64, 96), "mxfp4", -1, "absmax"),
    pytest.param((2, 64, 32), "nvfp4", None, "absmax", marks=pytest.mark.nightly),
    ((64, 32), "nvfp4", None, "absmax"),
    pytest.param((3, 16, 32), "int8@tensor", None, "absmax", marks=pytest.mark.nightly),
    ((64, 32), "int8@tensor", None, "absmax"),
    pytest.param((3, 3, 16, 20), "e4m3fn", None, "absmax", marks=pytest.mark.nightly),
    ((100,), "int8@block32", -1, "absmax"),
    ((), "int8", None, "absmax"),
    ((0, 5), "int8", None, "absmax"),
    ((0, 5), "int8@tensor", None, "absmax"),
    ((5, 0), "int8", -1, "minmax"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "fmt", "axis", "how"), CASES)
def test_pieces_are_the_whole(shape, fmt, axis, how):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    if len(shape) > 1 and x.size:
        x[1] *= 300
        x[0, 1] = np.nan
    sizes = []

    def fill(out, at, start):
        sizes.append(out.shape[at] if x.ndim else 1)
        index = [slice(None)] * x.ndim
        if x.ndim:
            index[at] = slice(start, start + out.shape[at])
        out[...] = x[tuple(index)]

    struct = jax.ShapeDtypeStruct(x.shape, x.dtype)
    found = quantize_pieces(struct, fill, fmt, axis=axis, calibrate=how, at_once=600)
    wanted = quantize_array(jnp.asarray(x), fmt, axis=axis, calibrate=how)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert own.dtype == other.dtype
        assert own.tobytes() == np.asarray(other).tobytes()
    is_whole = how == "mse" or x.size <= 600 or (fmt, len(shape)) in (
        ("int8@tensor", 2), ("nvfp4", 2))  # fmt: skip
    assert (len(sizes) <= 1) == is_whole


@pytest.mark.world
def test_no_more_is_read_at_once_than_was_asked_for():
    read_at_once = []

    def fill(out, at, start):
        assert (at, start) == (1, sum(read_at_once))
        read_at_once.append(out.shape[1])
        out[...] = 1

    struct = jax.ShapeDtypeStruct((64, 96), np.float16)
    q = quantize_pieces(struct, fill, "int8", at_once=64 * 10)
    assert read_at_once == [8] * 12  # equal pieces: one shape to compile
    assert q.dtype == np.float16
    assert q.values.shape == (64, 96)
    assert np.all(q.values == 127)


def test_float64_is_refused():
    with pytest.raises(TypeError, match="cast it first"):
        quantize_pieces(jax.ShapeDtypeStruct((4, 4), np.float64), lambda *_: None, "int8")
