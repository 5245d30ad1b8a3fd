"""Packed codes: every width, ragged rows, bytes counted; bit strings are the oracle."""

import jax
import numpy as np
import pytest

from precis.formats import pack, parse, unpack
from precis.formats.codes import code_dtype

WIDTHS = ["int2", "int3", "e2m1", "e2m2", "e3m2", "int7", "int8", "e5m3", "e5m7", "f16", "f32"]


def codes_of(name, shape):
    fmt = parse(name)
    drawn = np.random.default_rng(0).integers(0, 2**fmt.bits, shape, dtype=np.uint64)
    return drawn.astype(code_dtype(fmt))


@pytest.mark.world
@pytest.mark.parametrize("name", WIDTHS)
def test_codes_come_back_and_bytes_are_counted(name):
    lengths, bits = (0, 1, 7, 8, 33), parse(name).bits
    rows = [codes_of(name, (3, length)) for length in lengths]
    # All lengths in one program, which is compiled sooner than one for each.
    all_packed = jax.jit(lambda rows: [pack(codes, name) for codes in rows])(rows)
    all_back = jax.jit(lambda all_packed: [unpack(packed) for packed in all_packed])(all_packed)
    for length, codes, packed, back in zip(lengths, rows, all_packed, all_back, strict=True):
        np.testing.assert_array_equal(back, codes)
        assert back.dtype == codes.dtype
        assert packed.nbytes == packed.data.nbytes == 3 * -(-length * bits // 8)
        assert packed.shape == codes.shape


@pytest.mark.parametrize("name", WIDTHS)
def test_the_lowest_bits_come_first(name):
    codes, bits = codes_of(name, (13,)), parse(name).bits
    text = "".join(format(int(code), f"0{bits}b")[::-1] for code in codes)
    text += "0" * (-len(text) % 8)
    want = [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]
    np.testing.assert_array_equal(pack(codes, name).data, want)


def test_under_jit_vmap_and_scan():
    codes = codes_of("e2m1", (4, 6, 9))
    packed = jax.jit(lambda c: pack(c, "e2m1"))(codes)
    assert packed.format == parse("e2m1")
    mapped = jax.vmap(lambda c: pack(c, "e2m1"))(codes)
    np.testing.assert_array_equal(mapped.data, packed.data)
    _, rows = jax.lax.scan(lambda _, p: (None, unpack(p)), None, packed)
    np.testing.assert_array_equal(rows, codes)


def test_no_rows_at_all():
    codes = np.zeros((0, 5), np.uint8)
    np.testing.assert_array_equal(unpack(pack(codes, "e2m1")), codes)


def test_clear_errors():
    with pytest.raises(ValueError, match="got a scalar"):
        pack(np.uint8(3), "e2m1")
    with pytest.raises(TypeError, match="unsigned integers, got float32"):
        pack(np.ones(3, np.float32), "e2m1")
    with pytest.raises(ValueError, match="without scale"):
        pack(np.ones(3, np.uint8), "mxfp4")
