"""Curves of arms over training."""

from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.curves import learning_curves, reached
from tests.comparison.common import fake_results


def test_learning_curves_say_where_they_end():
    results = fake_results({"a": 0.0, "b": 0.03, "b/frozen": 0.01, "c": -0.02}, twins={"b": ["frozen"]}, noise=0.0)
    drawing = learning_curves(analyse(results))
    assert drawing.alt.startswith(
        "Learning curves of 4 arms in 2 panels. After the last evaluation the means lie between "
    )
    assert "(c) and 93.0" in drawing.alt
    assert "leaves out the start" in drawing.caption


def test_short_runs_show_their_start():
    drawing = learning_curves(analyse(fake_results({"a": 0.0, "b": 0.0}, epochs=3)))
    assert "leaves out" not in drawing.caption


def test_arms_without_a_curve_are_left_out():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=2, failed=[("b", 1), ("b", 2)])
    assert learning_curves(analyse(results)).alt.startswith("Learning curves of 1 arm in 1 panel.")
    nothing = fake_results({"a": 0.0}, seeds=1, failed=[("a", 1)])
    assert learning_curves(analyse(nothing)) is None


def test_the_share_of_runs_that_reached_a_target():
    analysis = analyse(fake_results({"a": 0.05, "b": -0.1}))
    drawing = reached(analysis, "0.9")
    assert "reached 90.00 % over epochs: 1 of 2 arms with all runs, 1 with none; the baseline with 100 %" in drawing.alt
    assert "baseline's own" in reached(analysis, "tuned baseline").caption
    assert reached(analyse(fake_results({"a": -0.1})), "0.9") is None


def test_a_curve_ends_where_its_first_run_diverged():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=3, diverged=[("b", 2)])
    drawing = learning_curves(analyse(results))
    assert "Ending before, where the first run diverged: b (1 of 3 diverged)." in drawing.alt
    assert "% (a); the baseline a is at" in drawing.alt
