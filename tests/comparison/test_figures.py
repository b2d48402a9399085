"""Figures say in words what they show, are the same each time, and are left out where there is nothing to show."""

import pytest

from lightning_qsgd.comparison import figures
from lightning_qsgd.comparison.analysis import analyse
from tests.comparison.common import fake_results

DRAW = (figures.forest, figures.differences, figures.dose)


@pytest.fixture(scope="module")
def analysis():
    return analyse(
        fake_results({"a": 0.0, "b": 0.03, "c": -0.02}, ["b - a", "c - a"], dose={"s": ["a", "b"]}, diverged=[("c", 1)])
    )


def test_contrasts_are_counted_by_their_interval(analysis):
    drawing = figures.forest(analysis)
    assert drawing.svg.lstrip().startswith("<?xml")
    assert "1 with an interval above 0, 0 below 0, 0 around 0" in drawing.alt
    assert "+3.00 points (b - a)" in drawing.alt
    assert "All seeds agree in sign in 1 of them: b - a." in figures.differences(analysis).alt


def test_the_slowest_arm_is_named(analysis):
    assert "slowest is c, with 1.1 times" in figures.cost(analysis).alt
    for run in analysis.arms["b"].runs.values():
        run.cost["circuits"] = 1234
    assert "Most circuits: 1,234 in a run of b." in figures.cost(analyse(analysis.results)).alt


def test_the_same_numbers_give_the_same_file(analysis):
    assert figures.forest(analysis).svg == figures.forest(analysis).svg


@pytest.mark.parametrize("draw", DRAW)
def test_nothing_declared_nothing_drawn(draw):
    assert draw(analyse(fake_results({"a": 0.0}))) is None


def test_one_seed_has_no_interval_but_a_figure():
    analysis = analyse(fake_results({"a": 0.0, "b": 0.01}, ["b - a"], seeds=1, dose={"s": ["a", "b"]}))
    assert all(draw(analysis) for draw in (*DRAW, figures.cost))


def test_the_start_of_training_is_left_out_of_long_curves_only():
    long, short = (figures.learning_curves(analyse(fake_results({"a": 0.0, "b": 0.0}, epochs=n))) for n in (12, 3))
    assert "leaves out the start" in long.caption
    assert "leaves out" not in short.caption


def test_arms_without_a_curve_are_left_out():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=2, failed=[("b", 1), ("b", 2)])
    assert figures.learning_curves(analyse(results)).alt.startswith("Learning curves of 1 arm in 1 panel.")
    assert figures.learning_curves(analyse(fake_results({"a": 0.0}, seeds=1, failed=[("a", 1)]))) is None


def test_the_share_of_runs_that_reached_a_target():
    alt = figures.reached(analyse(fake_results({"a": 0.05, "b": -0.1})), "0.9").alt
    assert "reached 90.00 % over epochs: 1 of 2 arms with all runs, 1 with none; the baseline with 100 %" in alt
    assert figures.reached(analyse(fake_results({"a": -0.1})), "0.9") is None


def test_a_curve_ends_where_its_first_run_diverged():
    alt = figures.learning_curves(analyse(fake_results({"a": 0.0, "b": 0.0}, seeds=3, diverged=[("b", 2)]))).alt
    assert "Ending before, where the first run diverged: b (1 of 3 diverged)." in alt
