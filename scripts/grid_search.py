"""Grid search that extends a coarse grid until the best value is on no edge, and then refines it by half-steps."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Score = tuple[float, ...]  # compared from left to right, larger is better
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Axis:
    """A geometric row of values around ``middle``.

    Args:
        name: name in reports.
        middle: positive middle of the first ``count`` values.
        factor: factor between neighbours, above 1; after refinement, its square root. Default: 3.
        count: odd number of first values; 1 fixes the value. Default: 5.
        reach: maximum number of values on either side of the middle. Default: 5.
        limit: the largest meaningful value. Default: infinity.
    """

    name: str
    middle: float
    factor: float = 3.0
    count: int = 5
    reach: int = 5
    limit: float = float("inf")

    @property
    def fixed(self) -> bool:
        return self.count == 1

    def value(self, index: float) -> float:
        return self.middle * self.factor**index

    def allows(self, index: float) -> bool:
        return self.value(index) <= self.limit * (1 + 1e-9) and abs(index) <= self.reach


@dataclass(frozen=True)
class Tuning(Generic[Choice]):
    """The result of a search.

    Attributes:
        values: the best value of each axis.
        choice: the best choice.
        score: their score.
        trials: all scores, by (values, choice).
        edges: names of axes whose best value is on an edge that cannot be extended, at ``reach`` or ``limit``.
    """

    values: tuple[float, ...]
    choice: Choice
    score: Score
    trials: dict[tuple[tuple[float, ...], Choice], Score]
    edges: tuple[str, ...]


def tune(
    evaluate: Callable[[tuple[float, ...], Choice], Score], axes: Sequence[Axis], choices: Sequence[Choice]
) -> Tuning[Choice]:
    """Try all combinations, extend axes whose best value is on an edge until there are none, and then try half-steps.

    Args:
        evaluate: returns the score of (values, choice). Of equal scores, the first one wins.
        axes: the axes, at least one.
        choices: values of a further setting without an order. Each is tried with all values except half-steps.
    """
    rows = [range(-(axis.count // 2), axis.count // 2 + 1) for axis in axes]
    found: dict[tuple[tuple[float, ...], Choice], Score] = {}

    def values(indices: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(axis.value(i) for axis, i in zip(axes, indices, strict=True))

    def best(rows: Sequence[Sequence[float]], choices: Sequence[Choice]) -> tuple[tuple[float, ...], Choice]:
        for key in itertools.product(itertools.product(*rows), choices):
            if key not in found:
                found[key] = evaluate(values(key[0]), key[1])
        return max(found, key=lambda key: found[key])

    while True:
        coarse, choice = best(rows, choices)
        grown = [_extended(axis, row, i) for axis, row, i in zip(axes, rows, coarse, strict=True)]
        if grown == rows:
            break
        rows = grown
    fine = [[j for j in _half_steps(axis, i) if axis.allows(j)] for axis, i in zip(axes, coarse, strict=True)]
    chosen = best(fine, [choice])
    edges = tuple(axis.name for axis, row, i in zip(axes, rows, chosen[0], strict=True) if _on_edge(axis, row, i))
    trials = {(values(indices), choice): score for (indices, choice), score in found.items()}
    return Tuning(values(chosen[0]), chosen[1], found[chosen], trials, edges)


def _on_edge(axis: Axis, row: range, best: float) -> bool:
    return not axis.fixed and best in (row.start, row.stop - 1)


def _half_steps(axis: Axis, best: float) -> tuple[float, ...]:
    return (best,) if axis.fixed else (best, best - 0.5, best + 0.5)


def _extended(axis: Axis, row: range, best: float) -> range:
    if axis.fixed:
        return row
    below = best == row.start and axis.allows(row.start - 1)
    above = best == row.stop - 1 and axis.allows(row.stop)
    return range(row.start - below, row.stop + above)
