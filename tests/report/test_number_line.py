"""The points of the picture against the formats' decoded values."""

import itertools
import math

import pytest

from precis.formats import CATALOGUE, parse
from precis.report import number_line

SMALL = [name for name, fmt in CATALOGUE.items() if fmt.bits <= 8]


def positive(name):
    fmt = parse(name)
    count = len(fmt.values) if hasattr(fmt, "values") else 1 << fmt.bits
    values = {fmt.value_of(code) for code in range(count)}
    return sorted(value for value in values if 0 < value < math.inf)


def at(points, x):
    """The height above x of the line through `points`, on its right side at a jump."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x < x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None


@pytest.mark.parametrize("name", SMALL)
def test_ends_and_ticks_are_the_values(name):
    line, values = number_line(name), positive(name)
    assert line.ends == (values[0], values[-1])
    assert line.low == math.log2(values[0])
    assert line.normal[1] == math.log2(values[-1])
    assert line.ticks == (tuple(map(math.log2, values)) if len(values) <= 128 else ())


@pytest.mark.parametrize("name", [n for n in SMALL if n not in ("nf4", "dynamic8", "udynamic8")])
def test_spacing_is_the_distance_to_the_next_value(name):
    line, values = number_line(name), positive(name)
    for low, high in itertools.pairwise(values):
        want = math.log2((high - low) / low)
        assert at(line.spacing, math.log2(low)) == pytest.approx(want, abs=1e-9), low


@pytest.mark.parametrize("name", ["nf4", "dynamic8"])
def test_a_codebook_has_a_point_for_each_number(name):
    values = positive(name)
    want = [
        (math.log2(low), math.log2((high - low) / low)) for low, high in itertools.pairwise(values)
    ]
    assert number_line(name).spacing == tuple(want)


def test_wide_formats():
    f32, f16, bf16 = (number_line(name) for name in ("f32", "f16", "bf16"))
    assert (f32.subnormal, f32.ticks) == ((-149.0, -126.0), ())
    assert (f16.subnormal, f16.ends) == ((-24.0, -14.0), (2.0**-24, 65504.0))
    assert bf16.normal[0] == f32.normal[0]
    assert number_line("int8").subnormal is None
    # No value overflows on its way to a logarithm.
    assert number_line("f64").normal[1] == pytest.approx(1024, abs=1e-9)


def test_a_scaled_format_shows_its_elements_under_its_name():
    line = number_line("nvfp4")
    assert line.label == "nvfp4"
    assert line._replace(label="e2m1") == number_line("e2m1")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="did you mean 'bf16'"):
        number_line("bf17")
