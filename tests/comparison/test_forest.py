"""Figures of contrasts say in words what they show."""

import pytest

from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.forest import differences, forest
from tests.comparison.common import fake_results


@pytest.fixture(scope="module")
def analysis():
    return analyse(
        fake_results({"a": 0.0, "b": 0.03, "c": -0.02}, ["b - a", "c - a"], dose={"s": ["a", "b"]}, diverged=[("c", 1)])
    )


def test_forest(analysis):
    drawing = forest(analysis)
    assert drawing.svg.lstrip().startswith("<?xml")
    assert "1 with an interval above 0, 0 below 0, 0 around 0" in drawing.alt
    assert "without a size: c - a (1 of 10 runs of c diverged)" in drawing.alt
    assert "+3.00 points (b - a)" in drawing.alt


def test_differences(analysis):
    assert "All seeds agree in sign in 1 of them: b - a." in differences(analysis).alt
    assert "1 dot beyond the axis" in differences(analysis).alt


def test_the_same_numbers_give_the_same_file(analysis):
    assert forest(analysis).svg == forest(analysis).svg


def test_a_phone_gets_a_picture_of_its_own(analysis):
    drawing = forest(analysis)
    wide, narrow = (float(svg.partition('width="')[2].partition("pt")[0]) for svg in (drawing.svg, drawing.narrow))
    assert narrow < wide / 2
