"""The picture of the formats: what stands in it, and that the committed one is up to date."""

import re
from pathlib import Path

import pytest

from precis.formats import facts
from precis.report import draw_number_lines
from precis.report.number_line_picture import USUAL
from precis.report.powers import figure

COMMITTED = Path(__file__).parents[2] / "docs" / "formats.svg"


def words(svg):
    """The texts of a picture, which matplotlib notes beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", svg)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    file = tmp_path_factory.mktemp("picture") / "formats.svg"
    draw_number_lines(file)
    return file.read_text()


def test_every_format_is_in_all_three_parts_with_its_ends(drawn):
    found = words(drawn)
    for name in USUAL:
        assert found.count(name) == 3
        assert figure(facts(name).max) in found
        assert figure(facts(name).smallest_positive) in found


def test_the_committed_picture_is_the_one_that_is_drawn(drawn):
    # Outlines may differ between versions of matplotlib; what is said must not.
    assert words(COMMITTED.read_text()) == words(drawn)


def test_the_same_bytes_each_time(drawn, tmp_path):
    draw_number_lines(tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == drawn


def test_one_more_format_stands_first(tmp_path):
    draw_number_lines(tmp_path / "a.svg", "e3m4")
    labels = [word for word in words((tmp_path / "a.svg").read_text()) if word in (*USUAL, "e3m4")]
    assert labels[: len(USUAL) + 1] == ["e3m4", *USUAL]


def test_a_usual_format_is_not_drawn_twice(tmp_path):
    draw_number_lines(tmp_path / "a.svg", "bf16")
    assert words((tmp_path / "a.svg").read_text()).count("bf16") == 3


@pytest.mark.parametrize("name", ["f64", "nf4", "e8m0", "mxfp4", "int4"])
def test_any_format_can_be_drawn(name, tmp_path):
    draw_number_lines(tmp_path / "a.svg", name)
    assert words((tmp_path / "a.svg").read_text()).count(name) == 3


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a \.svg or a \.png file, got 'a\.jpg'"):
        draw_number_lines(tmp_path / "a.jpg")
