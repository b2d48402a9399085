import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.comparison.profiles import (
    algoperf_score,
    geometric_mean_speedup,
    hit_curve,
    interquartile_mean,
    performance_profile,
    summarize_times,
    time_to_target,
)

pytestmark = pytest.mark.filterwarnings("error")
INF = math.inf
# Four tasks: a is fastest on the first two, b on the third, where a misses; nobody reaches the fourth
TIMES = {"a": [10, 20, INF, INF], "b": [15, 80, 30, INF], "c": [40, INF, 60, INF]}
times = st.one_of(st.floats(0.01, 100), st.just(INF))
tables = st.integers(1, 5).flatmap(
    lambda n: st.dictionaries(st.sampled_from("abcd"), st.lists(times, min_size=n, max_size=n), min_size=1)
)


@pytest.mark.parametrize(
    ("values", "target", "mode", "expected"),
    [
        ([0.1, 0.5, 0.9, 0.95], 0.9, "max", 3),
        ([0.1, 0.95, 0.3, 0.95], 0.9, "max", 2),
        ([0.1, math.nan, 0.3, 0.91], 0.9, "max", 4),
        ([0.1, 0.2, 0.3, math.nan], 0.9, "max", INF),
        ([INF, 2.0, 0.5, 0.4], 0.5, "min", 3),
        ([math.nan] * 4, 0.5, "min", INF),
    ],
)
def test_time_to_target(values, target, mode, expected):
    assert time_to_target([1, 2, 3, 4], values, target, mode) == expected


def test_time_to_target_without_evaluations_is_a_miss():
    assert time_to_target([], [], 0.9) == INF


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1], 0.5), r"Invalid values: shape \(1,\) for times of \(2,\)"),
        (([1, math.nan], [1, 1], 0.5), "Invalid times"),
        (([1, 2], [1, 1], math.nan), "Invalid target: nan"),
        (([1, 2], [1, 1], 0.5, "maximum"), "Invalid mode: 'maximum'"),
    ],
)
def test_time_to_target_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        time_to_target(*arguments)


@pytest.mark.parametrize(
    ("seeds", "hits", "median", "restricted_mean"),
    [
        ([3, 1, 2], 3, 2, 2),
        ([4, 1, 2, 3], 4, 2, 2.5),
        ([INF, 1, 2], 2, 2, 13 / 3),
        ([INF, 1, INF, 3], 2, 3, 6),  # half of the runs: the last of them is the median
        ([INF, 1, INF], 1, INF, 7),
        ([INF, INF], 0, INF, 10),
        ([11, 10, 1], 2, 10, 7),  # a hit at the horizon counts, one after it does not
        ([11, 12, 1], 1, INF, 7),
    ],
)
def test_summary_of_times(seeds, hits, median, restricted_mean):
    found = summarize_times(seeds, 10)
    assert (found.n, found.hits, found.rate, found.horizon) == (len(seeds), hits, hits / len(seeds), 10)
    assert (found.median, found.restricted_mean) == (median, restricted_mean)


@given(st.lists(times, min_size=1, max_size=12), st.integers(0, 11))
def test_a_run_that_misses_makes_no_summary_better(seeds, which):
    worse = list(seeds)
    worse[which % len(seeds)] = INF
    before, after = (summarize_times(t, 50) for t in (seeds, worse))
    assert after.rate <= before.rate
    assert after.median >= before.median
    assert after.restricted_mean >= before.restricted_mean * (1 - 1e-12)
    assert math.isinf(after.median) == (after.rate < 0.5)


def test_hit_curve():
    x, share = hit_curve([3, INF, 1, 3, 2.5])
    assert x.tolist() == [0, 1, 2.5, 3]
    assert share.tolist() == [0, 0.2, 0.4, 0.8]
    x, share = hit_curve([INF])
    assert (x.tolist(), share.tolist()) == ([0], [0])


@given(st.lists(times, min_size=1, max_size=12))
def test_area_above_the_hit_curve_is_the_restricted_mean(seeds):
    x, share = hit_curve(seeds)
    horizon = 200.0  # beyond all finite times
    area = float(((1 - share) * np.diff([*x, horizon])).sum())
    assert area == pytest.approx(summarize_times(seeds, horizon).restricted_mean)


@pytest.mark.parametrize("seeds", [[], [math.nan, 1], [[1, 2]]])
def test_times_are_checked(seeds):
    for function in (hit_curve, lambda t: summarize_times(t, 10)):
        with pytest.raises(ValueError, match="Invalid times"):
            function(seeds)


@pytest.mark.parametrize("horizon", [0, INF, math.nan])
def test_summary_needs_a_horizon(horizon):
    with pytest.raises(ValueError, match="Invalid horizon"):
        summarize_times([1], horizon)


def test_profile_by_hand():
    # Ratios: a 1, 1, -, -; b 1.5, 4, 1, -; c 4, -, 2, -
    profile = performance_profile(TIMES, [1, 1.5, 2, 4])
    assert {arm: row.tolist() for arm, row in profile.items()} == {
        "a": [0.5, 0.5, 0.5, 0.5],
        "b": [0.25, 0.5, 0.5, 0.75],
        "c": [0, 0, 0.25, 0.5],
    }


def test_score_by_hand():
    # a: 2 tasks of 4 at ratio 1. b: (3 + 2.5) / 3 of 4. c: 2 / 3 of 4
    assert algoperf_score(TIMES) == pytest.approx({"a": 0.5, "b": 5.5 / 12, "c": 2 / 12})
    assert algoperf_score(TIMES, 1.75) == pytest.approx({"a": 0.5, "b": 1 / 4 * (1 + 0.25 / 0.75), "c": 0})
    assert algoperf_score({"only": [3, 5]}) == {"only": 1}


@given(tables)
def test_score_is_the_area_under_the_profile(table):
    taus = np.linspace(1, 4, 6001)
    profile, scores = performance_profile(table, taus), algoperf_score(table)
    for arm, row in profile.items():
        assert (np.diff(row) >= 0).all()
        assert scores[arm] == pytest.approx(np.trapezoid(row, taus) / 3, abs=1e-3)


@given(tables, st.floats(0.1, 10))
def test_the_unit_of_time_does_not_matter(table, factor):
    scaled = {arm: [factor * t for t in row] for arm, row in table.items()}
    assert algoperf_score(scaled) == pytest.approx(algoperf_score(table))


def test_speedup_counts_tasks_that_both_reached():
    found = geometric_mean_speedup(TIMES, "b")
    assert found["a"] == (pytest.approx(math.sqrt(15 / 10 * 80 / 20)), 2)
    assert found["c"] == (pytest.approx(math.sqrt(15 / 40 * 30 / 60)), 2)
    assert list(found) == ["a", "c"]
    ratio, tasks = geometric_mean_speedup({"a": [1, INF], "b": [INF, 1]}, "a")["b"]
    assert math.isnan(ratio)
    assert tasks == 0


@given(tables)
def test_speedups_of_swapped_arms_are_inverse(table):
    arms = list(table)
    forth, back = (geometric_mean_speedup(table, arm) for arm in (arms[0], arms[-1]))
    if len(arms) > 1 and forth[arms[-1]].tasks:
        assert forth[arms[-1]].ratio * back[arms[0]].ratio == pytest.approx(1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "Invalid times"),
        ({"a": [1, 2], "b": [1]}, "Invalid times: {'a': 2, 'b': 1} tasks"),
        ({"a": [1, 0], "b": [1, 1]}, "Invalid times of a: ratios need positive times"),
        ({"a": [1], "b": [math.nan]}, "Invalid times of b"),
        ({"a": [], "b": []}, "Invalid times of a"),
    ],
)
def test_tables_are_checked(table, message):
    for function in (algoperf_score, lambda t: performance_profile(t, [1])):
        with pytest.raises(ValueError, match=message):
            function(table)


def test_score_and_speedup_refuse():
    with pytest.raises(ValueError, match="Invalid max_tau: 1"):
        algoperf_score(TIMES, 1)
    with pytest.raises(ValueError, match="Invalid baseline: 'd'; it must be one of a, b, c"):
        geometric_mean_speedup(TIMES, "d")


def test_interquartile_mean():
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -50]) == 3.5  # 2, 3, 4, 5
    assert interquartile_mean([0, 1, 2, 3, 10]) == 2  # one of five is cut at each end
    assert interquartile_mean([1, 2, 6]) == 3
    assert interquartile_mean([1, 2, 4, INF]) == 3
    with pytest.raises(ValueError, match="Invalid values"):
        interquartile_mean([1, math.nan])
