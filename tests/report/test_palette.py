"""Arms look different from each other, also to color-blind readers and on both pages."""

import numpy as np
import pytest

from precis.report import load
from precis.report.palette import INKS, css, stand_in, styles, with_variables

PAGES = {"light": (251, 251, 249), "dark": (19, 22, 25)}


def rgb(color):
    return [int(color[place : place + 2], 16) for place in (1, 3, 5)]


def luminance(color):
    """WCAG 2's relative luminance."""
    parts = np.array(color) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("face", PAGES)
def test_every_arm_stands_out_from_the_page(face):
    """WCAG 2 wants 3 to 1 of graphical objects."""
    for ink in INKS:
        if ink.name == "rule":
            continue
        levels = sorted([luminance(rgb(getattr(ink, face))), luminance(PAGES[face])])
        assert (levels[1] + 0.05) / (levels[0] + 0.05) >= 3, ink.name


def test_thirty_arms_are_thirty_styles(sample, tmp_path):
    arms = tuple(sample.Made(f"arm{i}", "f32", states={0: "pending"}) for i in range(30))
    arms = (*sample.ARMS[:2], *arms)
    folder = sample.write_store(tmp_path / "runs", arms=arms, tasks={}, seeds=(0,))
    assert len(set(styles(load(folder)).values())) == 32


def test_stand_ins_are_found_again_and_fall_back_on_the_light_face():
    for ink in INKS:
        assert with_variables(f"fill: {stand_in(ink)}") == f"fill: var(--{ink.name}, {ink.light})"
        assert f"--{ink.name}: {ink.dark};" in css(dark=True)
    assert len({stand_in(ink) for ink in INKS}) == len(INKS)
