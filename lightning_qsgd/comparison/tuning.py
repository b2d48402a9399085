"""Propose the settings that an arm tries next: a grid, then a wider or finer one, within a budget."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Point = tuple[Any, ...]
Space = Mapping[str, Sequence[Any]]


def propose(space: Space, scores: Mapping[Point, float], trials: int, margin: float) -> list[Point]:
    """Propose points to try next, deterministically.

    The grid comes first; if it is larger than the budget, a random part of it (seed 0). After that, while the budget
    lasts, points are proposed beyond the best point, in each direction where it lies on the edge of the tried points.
    If it lies on no edge, they are proposed between it and each neighbour that is worse by more than the margin. Steps
    are factors if all values of a setting are positive numbers. Settings with other values than numbers stay on the
    grid.

    Args:
        space: values of each setting, in the order of the grid.
        scores: the score of each point that was tried, higher is better, -inf if it diverged. A point has one value
            for each setting of ``space``.
        trials: maximum number of points in total, at least 1.
        margin: difference in score that does not matter, above 0.

    Returns:
        New points; an empty list if tuning is complete.
    """
    grid = list(itertools.product(*space.values()))
    if len(grid) > trials:
        chosen = np.random.default_rng(0).choice(len(grid), trials, replace=False)
        grid = [grid[i] for i in sorted(chosen)]
    if missing := [point for point in grid if point not in scores]:
        return missing
    left = trials - len(scores)
    point = best(scores)
    if left <= 0 or not math.isfinite(scores[point]):
        return []
    beyond, between = [], []
    for axis, values in enumerate(space.values()):
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            continue
        line = _line(scores, point, axis)
        i = line.index(point[axis])
        geometric = min(line) > 0
        for neighbour, other in ((i - 1, i + 1), (i + 1, i - 1)):
            if 0 <= neighbour < len(line):
                beside = _at(point, axis, line[neighbour])
                if scores[point] - scores[beside] > margin:
                    between.append(_at(point, axis, _middle(point[axis], line[neighbour], geometric)))
            elif 0 <= other < len(line):
                beyond.append(_at(point, axis, _mirrored(point[axis], line[other], geometric)))
    new = [candidate for candidate in dict.fromkeys(beyond or between) if candidate not in scores]
    return new[:left]


def best(scores: Mapping[Point, float]) -> Point:
    """The point with the highest score; the first one of several."""
    return max(scores, key=lambda point: scores[point])


def on_edge(space: Space, scores: Mapping[Point, float]) -> list[str]:
    """Numeric settings whose value at the best point is the smallest or largest one tried along their axis."""
    point, found = best(scores), []
    for axis, (name, values) in enumerate(space.items()):
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        line = _line(scores, point, axis)
        if numbers and len(line) > 1 and point[axis] in (line[0], line[-1]):
            found.append(name)
    return found


def _line(scores: Mapping[Point, float], point: Point, axis: int) -> list[Any]:
    """Values that were tried along one axis through a point, in ascending order."""
    rest = point[:axis] + point[axis + 1 :]
    return sorted(p[axis] for p in scores if p[:axis] + p[axis + 1 :] == rest)


def _at(point: Point, axis: int, value: Any) -> Point:
    return (*point[:axis], value, *point[axis + 1 :])


def _middle(a: float, b: float, geometric: bool) -> float:
    return _rounded(math.sqrt(a * b) if geometric else (a + b) / 2)


def _mirrored(edge: float, inner: float, geometric: bool) -> float:
    return _rounded(edge * edge / inner if geometric else 2 * edge - inner)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
