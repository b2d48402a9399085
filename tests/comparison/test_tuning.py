"""Trials: the grid, then beyond edges and between neighbours, never more than the budget."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.comparison.tuning import best, on_edge, propose

LR = {"lr": [0.001, 0.01]}


def tune(space, score, trials, margin=0.01):
    """All trials of a known score, in rounds."""
    scores = {}
    while points := propose(space, scores, trials, margin):
        assert not set(points) & set(scores)
        scores |= {point: score(*point) for point in points}
    return scores


def test_the_grid_comes_first_then_what_lies_beyond_its_edge():
    assert propose(LR, {}, 4, 0.01) == [(0.001,), (0.01,)]
    assert propose(LR, {(0.001,): 0.5, (0.01,): 0.9}, 4, 0.01) == [(0.1,)]
    assert propose(LR, {(0.001,): 0.9, (0.01,): 0.5}, 4, 0.01) == [(0.0001,)]


def test_between_neighbours_that_differ_by_more_than_the_margin():
    scores = {(0.001,): 0.5, (0.01,): 0.9, (0.1,): 0.895}
    assert propose(LR, scores, 5, 0.01) == [(pytest.approx(math.sqrt(1e-5), rel=1e-5),)]
    assert propose(LR, scores, 5, 0.5) == []
    assert propose(LR, scores, 3, 0.01) == []


@pytest.mark.parametrize("optimum", [1e-5, 3e-4, 0.02, 1.0])
def test_tuning_finds_an_optimum_outside_of_its_grid(optimum):
    scores = tune({"lr": [1e-3, 3e-3, 1e-2]}, lambda lr: 1 - abs(math.log10(lr / optimum)) / 10, 12)
    assert abs(math.log10(best(scores)[0] / optimum)) < 0.25


def test_two_settings_share_the_budget():
    space = {"lr": [0.01, 0.1], "weight": [0.0, 0.5]}
    scores = tune(space, lambda lr, weight: -(math.log10(lr) ** 2) - (weight - 1) ** 2, 10)
    assert len(scores) == 10
    assert (0.1, 1.0) in scores  # weight 0: steps are differences, not factors


def test_a_grid_beyond_the_budget_is_sampled_and_words_stay_on_the_grid():
    space = {"lr": [1, 2, 3, 4, 5], "kind": ["a", "b"]}
    points = propose(space, {}, 4, 0.1)
    assert len(points) == 4
    assert points == propose(space, {}, 4, 0.1)
    scores = tune({"kind": ["a", "b"]}, lambda kind: float(kind == "b"), 9)
    assert set(scores) == {("a",), ("b",)}
    assert propose({}, {}, 3, 0.1) == [()]
    assert propose({}, {(): 0.5}, 3, 0.1) == []


def test_where_everything_diverges_nothing_more_is_tried():
    assert propose(LR, {(0.001,): -math.inf, (0.01,): -math.inf}, 9, 0.01) == []


def test_an_edge_is_named():
    assert on_edge(LR, {(0.001,): 0.5, (0.01,): 0.9}) == ["lr"]
    assert on_edge(LR, {(0.001,): 0.5, (0.01,): 0.9, (0.1,): 0.1}) == []


@given(st.integers(1, 12), st.floats(-6, 0), st.floats(0.001, 0.1))
def test_the_budget_is_never_exceeded(trials, optimum, margin):
    scores = tune({"lr": [1e-4, 1e-3, 1e-2]}, lambda lr: -abs(math.log10(lr) - optimum), trials, margin)
    assert len(scores) <= trials
