"""Times until a target is reached, over seeds and across tasks. Level 4, numpy and scipy only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


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


class Speedup(NamedTuple):
    """How much faster than a baseline an arm is; above 1 is faster.

    Attributes:
        ratio: geometric mean of baseline's time / arm's time, over tasks that both reached; NaN without any.
        tasks: number of these tasks. The others do not count, whoever missed them: read it beside the ratio.
    """

    ratio: float
    tasks: int


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


def performance_profile(times: Mapping[str, Sequence[float]], taus: ArrayLike) -> dict[str, np.ndarray]:
    """Share of tasks that each arm solves within tau times the fastest arm's time (Dolan & More 2002).

    Args:
        times: for each arm one positive time a task, the same tasks in the same order; infinite for a miss.
        taus: (points,) factors, of use from 1 on.

    Returns:
        For each arm (points,) float64 in [0, 1]. A task that no arm reaches counts as solved by none.

    Raises:
        ValueError: for no arms or tasks, different numbers of tasks, and times that are not positive.
    """
    taus = np.asarray(taus, dtype=np.float64)
    return {arm: (ratios <= taus[:, None]).mean(axis=1) for arm, ratios in _ratios(times).items()}


def algoperf_score(times: Mapping[str, Sequence[float]], max_tau: float = 4.0) -> dict[str, float]:
    """Area under each arm's performance profile from tau = 1 to max_tau, over max_tau - 1 (arXiv 2306.07179).

    Exact: a task of ratio r adds max_tau - r, where that is positive.

    Args:
        times: as `performance_profile` takes them.
        max_tau: above 1, finite.

    Returns:
        For each arm a score in [0, 1]; 1 for the fastest on all tasks.

    Raises:
        ValueError: for an invalid max_tau, or what `performance_profile` refuses.
    """
    if not 1 < max_tau < math.inf:
        raise ValueError(f"Invalid max_tau: {max_tau}; it must be finite and above 1")
    areas = {arm: np.maximum(max_tau - ratios, 0) / (max_tau - 1) for arm, ratios in _ratios(times).items()}
    return {arm: float(area.mean()) for arm, area in areas.items()}


def geometric_mean_speedup(times: Mapping[str, Sequence[float]], baseline: str) -> dict[str, Speedup]:
    """Speed-up of each other arm over a baseline, on the tasks that both reached.

    Args:
        times: as `performance_profile` takes them.
        baseline: the arm to compare with.

    Raises:
        ValueError: for an unknown baseline, or what `performance_profile` refuses.
    """
    if baseline not in times:
        raise ValueError(f"Invalid baseline: {baseline!r}; it must be one of {', '.join(times)}")
    checked = _tasks(times)
    speedups = {}
    for arm in times:
        if arm != baseline:
            both = np.isfinite(checked[arm]) & np.isfinite(checked[baseline])
            quotients = checked[baseline][both] / checked[arm][both]
            speedups[arm] = Speedup(float(stats.gmean(quotients)) if both.any() else math.nan, int(both.sum()))
    return speedups


def interquartile_mean(values: ArrayLike) -> float:
    """Mean without the lowest and highest quarter, each rounded down to whole values (Agarwal et al. 2021).

    Args:
        values: (n,) n at least 1; below 4 nothing is cut. Infinite ones are fine where they are cut.

    Raises:
        ValueError: for no values, or NaN.
    """
    return float(stats.trim_mean(_times(values, "values"), 0.25))


def _times(times: ArrayLike, name: str = "times") -> np.ndarray:
    array = np.asarray(times, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or np.isnan(array).any():
        raise ValueError(f"Invalid {name}: {times}; it must be one number or more, none of them NaN")
    return array


def _tasks(times: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Each arm's (tasks,) times, checked."""
    arrays = {arm: _times(row, f"times of {arm}") for arm, row in times.items()}
    if len({len(row) for row in arrays.values()}) != 1:
        lengths = {arm: len(row) for arm, row in arrays.items()}
        raise ValueError(f"Invalid times: {lengths} tasks; give each of at least one arm one time a task")
    if wrong := [arm for arm, row in arrays.items() if (row <= 0).any()]:
        raise ValueError(f"Invalid times of {', '.join(wrong)}: ratios need positive times; count from 1, not from 0")
    return arrays


def _ratios(times: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Each arm's (tasks,) times over the fastest arm's; infinite for a miss, also where all missed."""
    arrays = _tasks(times)
    fastest = np.min(list(arrays.values()), axis=0)
    # A miss over a miss would be NaN, so it is divided by 1
    return {arm: row / np.where(np.isfinite(fastest), fastest, 1.0) for arm, row in arrays.items()}
