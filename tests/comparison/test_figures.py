"""Figures of doses and costs say in words what they show."""

import pytest

from lightning_qsgd.comparison import figures, forest
from lightning_qsgd.comparison.analysis import analyse
from tests.comparison.common import fake_results


@pytest.fixture(scope="module")
def analysis():
    return analyse(
        fake_results({"a": 0.0, "b": 0.03, "c": -0.02}, ["b - a", "c - a"], dose={"s": ["a", "b"]}, diverged=[("c", 1)])
    )


def test_dose(analysis):
    assert figures.dose(analysis).alt == "Dose-response of 1 series. Means: a 90.00 %, b 93.00 %."


def test_dose_says_what_diverged():
    results = fake_results({"a": 0.0, "b": 0.03}, dose={"s": ["a", "b"]}, diverged=[("b", 1)])
    assert "b 93." in figures.dose(analyse(results)).alt
    assert figures.dose(analyse(results)).alt.endswith("% (1 of 10 diverged).")


def test_cost(analysis):
    drawing = figures.cost(analysis)
    assert drawing.alt == "Cost of 3 arms. The slowest is c, with 1.1 times the training seconds of a."
    for run in analysis.arms["b"].runs.values():
        run.cost["circuits"] = 1234
    assert "Most circuits: 1,234 in a run of b." in figures.cost(analyse(analysis.results)).alt


@pytest.mark.parametrize("draw", [forest.forest, forest.differences, figures.dose])
def test_nothing_declared_nothing_drawn(draw):
    assert draw(analyse(fake_results({"a": 0.0}))) is None


def test_one_seed_has_no_interval_but_a_figure():
    analysis = analyse(fake_results({"a": 0.0, "b": 0.01}, ["b - a"], seeds=1, dose={"s": ["a", "b"]}))
    assert all(draw(analysis) for draw in (forest.forest, forest.differences, figures.dose, figures.cost))
