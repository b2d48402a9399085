"""Schedules: functions of the step number for quantum_weight, the radius of a displacement, and torch's LambdaLR.

Each takes a step (int, from 0) and returns a number, which is constant after the last step. Schedules hold plain
numbers, so that they can be pickled and copied, and checkpoints of LambdaLR stay plain.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from lightning_qsgd.optim.perturbation import require


class ConstantSchedule:
    """The same number in each step.

    Args:
        value: the number, finite.

    Raises:
        ValueError: if the number is not finite.
    """

    def __init__(self, value: float) -> None:
        require("value", value, math.isfinite(value), "finite")
        self.value = float(value)

    def __call__(self, step: int) -> float:
        """The number of step ``step``."""
        return self.value


class _Ramp(ABC):
    """From ``start`` at step 0 to ``end`` at step ``steps``, and ``end`` afterwards."""

    def __init__(self, start: float, end: float, steps: int) -> None:
        require("start", start, math.isfinite(start), "finite")
        require("end", end, math.isfinite(end), "finite")
        require("steps", steps, steps >= 1, "at least 1")
        self.start, self.end, self.steps = float(start), float(end), int(steps)

    def __call__(self, step: int) -> float:
        """The number of step ``step``."""
        return self.end if step >= self.steps else self._at(step / self.steps)

    @abstractmethod
    def _at(self, fraction: float) -> float:
        """The number at a fraction of the way, in [0, 1)."""


class LinearSchedule(_Ramp):
    """A straight line from ``start`` to ``end``.

    Args:
        start: number at step 0, finite.
        end: number from step ``steps`` on, finite.
        steps: length, at least 1.

    Raises:
        ValueError: for an invalid argument.
    """

    def _at(self, fraction: float) -> float:
        return self.start + (self.end - self.start) * fraction


class CosineSchedule(_Ramp):
    """Half a cosine from ``start`` to ``end``: flat at both, steepest in the middle.

    Args:
        start, end, steps: as in :class:`LinearSchedule`.

    Raises:
        ValueError: for an invalid argument.
    """

    def _at(self, fraction: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * fraction)) / 2


class ExponentialSchedule(_Ramp):
    """A geometric sequence from ``start`` to ``end``: the same factor in each step.

    Args:
        start, end: both positive.
        steps: as in :class:`LinearSchedule`.

    Raises:
        ValueError: for an invalid argument.
    """

    def __init__(self, start: float, end: float, steps: int) -> None:
        super().__init__(start, end, steps)
        require("start", start, start > 0, "positive")
        require("end", end, end > 0, "positive")

    def _at(self, fraction: float) -> float:
        return self.start * (self.end / self.start) ** fraction


class WarmupSchedule:
    """A straight line from 0 to the first number of ``then``, which follows and counts its steps from 0.

    Args:
        steps: length of the warm-up, at least 1.
        then: a number or a schedule.

    Raises:
        ValueError: for an invalid argument.
    """

    # LambdaLR saves the __dict__ of its function, and a checkpoint with an object would not load with weights_only.
    __slots__ = ("__dict__", "_then")

    def __init__(self, steps: int, then: float | Callable[[int], float]) -> None:
        require("steps", steps, steps >= 1, "at least 1")
        self.steps = int(steps)
        self._then = then if callable(then) else ConstantSchedule(then)

    def __call__(self, step: int) -> float:
        """The number of step ``step``."""
        if step < self.steps:
            return self._then(0) * (step / self.steps)
        return self._then(step - self.steps)
