"""Arms over several tasks."""

import math

import pytest

from lightning_qsgd.comparison.across import combine, different, profile, table
from lightning_qsgd.comparison.analysis import analyse
from tests.comparison.common import fake_results


def task(name, pace, **effects):
    """One seed; ``b`` needs ``pace`` times as many steps as ``a``."""
    results = fake_results({"a": 0.0, **effects}, name=name, seeds=1, noise=0.0, data=name)
    for run in results.of("b").values():
        run.curve["step"] = [pace * step for step in results.of("a")[1].curve["step"]]
    return analyse(results)


def test_scores_and_speed_ups():
    across = combine([task("one", 0.5, b=0.0), task("two", 2.0, b=0.0)])
    rows = {row[0]: row for row in table(across).rows}
    # b is 2 times as fast on one task and 2 times as slow on the other: 1 / 1 and ratio 2 each, (3 + 2) / 3 / 2
    assert (rows["a"][1], rows["b"][1]) == ("0.83", "0.83")
    assert rows["b"][3] == "1.00 (2)"
    assert rows["a"][3] == "1 (baseline)"
    assert float(rows["b"][5]) == 1
    assert "one and two" in table(across).caption


def test_only_arms_of_all_tasks_are_compared():
    across = combine([task("one", 1.0, b=0.0, c=0.1), task("two", 1.0, b=0.0)])
    assert list(across.scores) == ["a", "b"]
    assert combine([task("one", 1.0, b=0.0), analyse(fake_results({"a": 0.0}))]) is None


def test_a_missed_target_is_infinite():
    across = combine([task("one", 1.0, b=-0.3), task("two", 1.0, b=0.0)])
    assert across.times["step"]["b"][0] == math.inf
    assert table(across).rows[-1][:2] == ("b", "0.50")
    assert across.scores["b"] == [pytest.approx(2 / 3), 1]


def test_the_profile_names_the_best():
    across = combine([task("one", 0.5, b=0.0), task("two", 0.5, b=0.0)])
    assert "1.00 (b); a has 0.67" in profile(across).alt


def test_a_diverged_run_counts_as_the_worst():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=2, noise=0.0, diverged=[("b", 2)])
    across = combine([analyse(results), task("two", 1.0, b=0.0)])
    assert across.scores["b"][:2] == [pytest.approx(1), pytest.approx(results.worst() / 0.9)]


def test_tasks_differ_in_their_validation_data():
    one, two = task("one", 1.0, b=0.0), task("two", 1.0, b=0.0)
    assert different([one, two])
    assert not different([one, task("one", 2.0, b=0.1)])
