import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.comparison.statistics import hit_curve, summarize_times, time_to_target

pytestmark = pytest.mark.filterwarnings("error")
INF = math.inf
times = st.one_of(st.floats(0.01, 100), st.just(INF))


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
