"""Codebooks against the published values, and against their construction in exact fractions."""

from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest

from precis.formats import parse
from precis.formats.codebooks import dynamic_map, normal_float

# QLoRA, arXiv:2305.14314, appendix E, to the last digit.
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


@pytest.mark.world
def test_nf4_is_the_published_one():
    assert list(parse("nf4").values) == NF4


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_normal_floats_are_quantiles_with_a_zero(bits):
    values = normal_float(bits)
    half = 2 ** (bits - 1)
    assert len(values) == 2**bits
    assert list(values) == sorted(set(values))
    assert (values[0], values[half - 1], values[-1]) == (-1.0, 0.0, 1.0)
    # The outermost probability, and steps that are even in probability down to the middle.
    outermost = 1 - (1 / (2 * half - 1) + 1 / (2 * half)) / 4
    quantile = NormalDist().inv_cdf
    for side, count in ((values[half:], half), ([-v for v in values[: half - 1]][::-1], half - 1)):
        steps = [0.5 + (outermost - 0.5) * (k + 1) / count for k in range(count)]
        want = [quantile(p) / quantile(outermost) for p in steps]
        # The published probability has seven digits, and the slope of a quantile is 1 / density.
        slope = 1 / NormalDist().pdf(quantile(outermost))
        np.testing.assert_allclose(side, want, rtol=0, atol=2 * slope * 3e-7)


def exact_dynamic_map(bits: int, signed: bool) -> list[Fraction]:
    values = {Fraction(0), Fraction(1)}
    for exponent in range(bits - 1):
        parts = 2 ** (exponent + (not signed))
        decade = Fraction(10) ** (exponent - bits + 2)
        for part in range(parts):
            middle = (Fraction(1, 10) + Fraction(9, 10) * (2 * part + 1) / (2 * parts)) * decade
            values |= {middle, -middle} if signed else {middle}
    return sorted(values)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_dynamic_maps_are_middles_of_even_parts_of_each_decade(bits, signed):
    values = dynamic_map(bits, signed=signed)
    want = exact_dynamic_map(bits, signed)
    assert len(values) == len(want) == 2**bits
    assert list(values) == sorted(set(values))
    # Every step of the published construction is rounded to float32: two edges of two roundings
    # each (of numbers up to 1, relative to a middle of at least 0.1), their sum, and the decade.
    for value, exact in zip(values, want, strict=True):
        assert abs(Fraction(value) - exact) <= abs(exact) * Fraction(6 * 10, 2**24)


def test_dynamic_maps_have_their_figures():
    signed, unsigned = parse("dynamic8"), parse("udynamic8")
    assert (signed.max, unsigned.min, unsigned.max) == (1.0, 0.0, 1.0)
    assert signed.min == pytest.approx(-0.99296875)
    # The middle of the only part of the smallest decade; of the first of two.
    assert min(v for v in signed.values if v > 0) == pytest.approx(5.5e-7)
    assert min(v for v in unsigned.values if v > 0) == pytest.approx(3.25e-7)


@pytest.mark.parametrize("name", ["nf4", "dynamic8", "udynamic8"])
def test_codebooks_are_exact_in_float32_and_full(name):
    book = parse(name)
    assert all(float(np.float32(value)) == value for value in book.values)
    assert len(book.values) == 2**book.bits
    assert 0.0 in book.values
