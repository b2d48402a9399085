"""Grid search whose best value never lies on an edge: the grid grows until it does not, or a cap says that it does."""

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
        name: for reports.
        middle: positive; the row starts with ``count`` values around it.
        factor: between neighbours, above 1. Default: 2.
        count: odd number of first values; 1 fixes the middle one. Default: 5.
        most: values that it may grow to. Default: 9.
        limit: the largest value that means something. Default: none.
    """

    name: str
    middle: float
    factor: float = 2.0
    count: int = 5
    most: int = 9
    limit: float = float("inf")

    @property
    def fixed(self) -> bool:
        return self.count == 1

    def value(self, index: int) -> float:
        return self.middle * self.factor**index


@dataclass(frozen=True)
class Tuning(Generic[Choice]):
    """What a search found.

    Attributes:
        values: the best value of each axis.
        choice: the best of the choices.
        score: theirs.
        trials: score of everything tried, by (values, choice).
        edges: names of the axes whose best value lies on an edge all the same, at ``most`` or ``limit``.
    """

    values: tuple[float, ...]
    choice: Choice
    score: Score
    trials: dict[tuple[tuple[float, ...], Choice], Score]
    edges: tuple[str, ...]


def tune(
    evaluate: Callable[[tuple[float, ...], Choice], Score], axes: Sequence[Axis], choices: Sequence[Choice]
) -> Tuning[Choice]:
    """Try all combinations; extend the axes whose best value lies on an edge; repeat.

    Args:
        evaluate: (values, choice) to score. Ties go to what was tried first.
        axes: at least one.
        choices: values of a further setting, without order; each is tried with everything.
    """
    rows = [range(-(axis.count // 2), axis.count // 2 + 1) for axis in axes]
    found: dict[tuple[tuple[int, ...], Choice], Score] = {}

    def values(indices: tuple[int, ...]) -> tuple[float, ...]:
        return tuple(axis.value(i) for axis, i in zip(axes, indices, strict=True))

    while True:
        for indices in itertools.product(*rows):
            for choice in choices:
                if (indices, choice) not in found:
                    found[indices, choice] = evaluate(values(indices), choice)
        (best, chosen), score = max(found.items(), key=lambda item: item[1])
        grown = [_extended(axis, row, i) for axis, row, i in zip(axes, rows, best, strict=True)]
        if grown == rows:
            inside = [axis.fixed or row.start < i < row.stop - 1 for axis, row, i in zip(axes, rows, best, strict=True)]
            edges = tuple(axis.name for axis, good in zip(axes, inside, strict=True) if not good)
            trials = {(values(indices), choice): s for (indices, choice), s in found.items()}
            return Tuning(values(best), chosen, score, trials, edges)
        rows = grown


def _extended(axis: Axis, row: range, best: int) -> range:
    if axis.fixed or len(row) >= axis.most:
        return row
    if best == row.start:
        return range(row.start - 1, row.stop)
    if best == row.stop - 1 and axis.value(row.stop) <= axis.limit:
        return range(row.start, row.stop + 1)
    return row
