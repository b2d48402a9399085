"""Times until a target is reached, over seeds."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Hits:
    """Times to a target over the seeds of one arm.

    Attributes:
        n: runs.
        hits: runs that reached the target within the horizon.
        rate: hits / n.
        median: first time by which at least half of the runs had; infinite where more than half missed.
        restricted_mean: mean of min(time, horizon): what a run spends on average if it stops at either.
        horizon: length of the runs, in the unit of the times.
    """

    n: int
    hits: int
    rate: float
    median: float
    restricted_mean: float
    horizon: float


def time_to_target(times: ArrayLike, values: ArrayLike, target: float, mode: Literal["max", "min"] = "max") -> float:
    """First time at which a metric is at its target or beyond; infinite if never.

    Args:
        times: (evaluations,) finite, in any unit and order.
        values: (evaluations,) the metric at these times; NaN never counts.
        target: finite.
        mode: "max" where higher is better, "min" where lower is.

    Raises:
        ValueError: for lengths that differ, times or a target that are not finite, and another mode.
    """
    times, values = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if times.shape != values.shape or times.ndim != 1:
        raise ValueError(f"Invalid values: shape {values.shape} for times of {times.shape}; give one for each time")
    if not np.isfinite(times).all():
        raise ValueError("Invalid times: some are not finite; leave such evaluations out")
    if not math.isfinite(target):
        raise ValueError(f"Invalid target: {target}; it must be finite")
    if mode not in ("max", "min"):
        raise ValueError(f"Invalid mode: {mode!r}; it must be max or min")
    reached = values >= target if mode == "max" else values <= target
    return float(times[reached].min(initial=math.inf))


def summarize_times(times: ArrayLike, horizon: float) -> Hits:
    """Summarize times to a target; a miss, also one after the horizon, counts as infinite.

    Args:
        times: (n,) one a run, n at least 1; infinite for a miss.
        horizon: length of the runs, positive and finite.

    Raises:
        ValueError: for no times, NaN, or an invalid horizon.
    """
    if not 0 < horizon < math.inf:
        raise ValueError(f"Invalid horizon: {horizon}; it must be positive and finite")
    ordered = np.sort(_times(times))
    ordered[ordered > horizon] = math.inf
    n, hits = len(ordered), int(np.isfinite(ordered).sum())
    median = float(ordered[(n - 1) // 2])
    return Hits(n, hits, hits / n, median, float(np.minimum(ordered, horizon).mean()), horizon)


def hit_curve(times: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Share of runs that have reached the target, as a step function of time.

    Args:
        times: (n,) one a run, n at least 1; infinite for a miss.

    Returns:
        Two float64 arrays (1 + number of different finite times): times from 0, ascending, and from each on the share
        of all n runs, in [0, 1]. To be drawn with steps after the points.

    Raises:
        ValueError: for no times, or NaN.
    """
    times = _times(times)
    x, counts = np.unique(times[np.isfinite(times)], return_counts=True)
    return np.concatenate([[0.0], x]), np.concatenate([[0.0], counts.cumsum() / len(times)])


def _times(times: ArrayLike) -> np.ndarray:
    array = np.asarray(times, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or np.isnan(array).any():
        raise ValueError(f"Invalid times: {times}; it must be one number or more, none of them NaN")
    return array
