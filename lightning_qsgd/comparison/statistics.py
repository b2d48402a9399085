"""Statistics of runs: paired differences, and times until a target is reached. Numpy and scipy only.

Higher is better: negate a metric that is minimized.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

_EXACT_UP_TO = 20  # pairs: 2**19 sums, about 5 ms
_RESAMPLES = 99_999
_BOOTSTRAP_FROM = 10  # pairs: below, bootstrap intervals are far too narrow
_POWER = 0.8


@dataclass(frozen=True)
class Paired:
    """What n pairs of runs (one of arm A and one of arm B each) say about A - B.

    Numbers are plain floats in the metric's unit, or probabilities. Those that n pairs cannot give are NaN: all with
    n = 0, and all that need a spread with n = 1. Two arms that agree bit for bit have the interval [0, 0] and p = 1;
    a constant difference other than 0 has no spread, so that its p is 0.

    Attributes:
        n: pairs.
        differences: A - B, one a pair.
        mean: of the differences.
        sd: their sample standard deviation (n - 1 in the denominator).
        low: lower end of the paired-t interval at 1 - alpha, two-sided.
        high: its upper end.
        alpha: the level of all intervals here, in (0, 0.5).
        d_z: effect size mean / sd; 0 where both are 0, infinite where only sd is.
        wins: pairs in which A is higher.
        ties: pairs in which both are equal.
        losses: pairs in which B is higher.
        probability: P(A > B) over all n * n cross pairs, ties count half (Mann-Whitney's U / n**2).
        p_t: of the paired t-test, two-sided.
        p_equivalence: larger p of two one-sided t-tests against -margin and margin (TOST; Schuirmann 1987).
        tost_low: lower end of the paired-t interval at 1 - 2 * alpha: A and B are equivalent at level alpha exactly
            where it lies inside (-margin, margin).
        tost_high: its upper end.
    """

    n: int
    differences: tuple[float, ...]
    mean: float
    sd: float
    low: float
    high: float
    alpha: float
    d_z: float
    wins: int
    ties: int
    losses: int
    probability: float
    p_t: float
    p_equivalence: float
    tost_low: float
    tost_high: float

    @cached_property
    def p_sign_flip(self) -> float:
        """p of the sign-flip test of the mean, two-sided: exact up to 20 pairs, 99,999 seeded flips above."""
        return _sign_flip(np.array(self.differences))

    @cached_property
    def detectable(self) -> float:
        """The smallest true difference that a two-sided t-test at alpha finds with power 0.8, if sd is the true one."""
        if self.n < 2:
            return math.nan
        noncentrality = special.nctdtrinc(self.n - 1, 1 - _POWER, special.stdtrit(self.n - 1, 1 - self.alpha / 2))
        return float(noncentrality) * self.sd / math.sqrt(self.n)

    @cached_property
    def bca(self) -> tuple[float, float] | None:
        """Bootstrap interval of the mean at 1 - alpha (BCa, 9,999 seeded resamples; Efron 1987); None below 10 pairs.

        Computed when first asked for. Too narrow at n = 10 still: read it beside the t interval, not in its place.
        """
        if self.n < _BOOTSTRAP_FROM:
            return None
        if self.sd == 0:
            return self.mean, self.mean
        sample = (np.array(self.differences),)
        rng = np.random.default_rng(0)
        result = stats.bootstrap(sample, np.mean, confidence_level=1 - self.alpha, method="BCa", rng=rng)
        return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired(a: ArrayLike, b: ArrayLike, margin: float, alpha: float = 0.05) -> Paired:
    """Compare two arms by their pairs.

    Args:
        a: (n,) final metrics of arm A, higher is better; n may be 0.
        b: (n,) those of arm B, from the same seeds in the same order.
        margin: difference below which two arms count as equivalent, in the metric's unit, at least 0.
        alpha: level of the intervals, in (0, 0.5).

    Raises:
        ValueError: for values that are not finite, lengths that differ, and a margin or alpha out of range.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"Invalid margin: {margin}; it must be finite and at least 0")
    if not 0 < alpha < 0.5:
        raise ValueError(f"Invalid alpha: {alpha}; it must be between 0 and 0.5")
    a, b = _values("a", a), _values("b", b)
    if len(a) != len(b):
        raise ValueError(f"Invalid b: {len(b)} values for the {len(a)} of a; give one of each for every pair")
    d, n = a - b, len(a)
    mean = float(d.mean()) if n else math.nan
    sd = float(d.std(ddof=1)) if n > 1 else math.nan
    if sd <= 1e-12 * max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0)):
        sd = 0.0  # a constant difference, up to rounding
    error, df = sd / math.sqrt(n) if n else math.nan, n - 1
    half, tost_half = (float(special.stdtrit(df, 1 - level)) * error for level in (alpha / 2, alpha))
    return Paired(
        n=n,
        differences=tuple(d.tolist()),
        mean=mean,
        sd=sd,
        low=mean - half,
        high=mean + half,
        alpha=alpha,
        d_z=_ratio(mean, sd),
        wins=int((d > 0).sum()),
        ties=int((d == 0).sum()),
        losses=int((d < 0).sum()),
        probability=float((np.sign(a[:, None] - b).mean() + 1) / 2) if n else math.nan,
        p_t=2 * _tail(abs(mean), error, df),
        p_equivalence=_tail(margin - abs(mean), error, df),
        tost_low=mean - tost_half,
        tost_high=mean + tost_half,
    )


def _values(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"Invalid {name}: shape {array.shape}; it must be a sequence of numbers, one a pair")
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"Invalid {name}: {bad} of {len(array)} values are not finite; drop these pairs from a and b")
    return array


def _ratio(effect: float, spread: float) -> float:
    """Quotient, with its limits where the spread is 0: 0 for no effect, infinite for any other."""
    if spread == 0:
        return math.copysign(math.inf, effect) if effect else 0.0
    return effect / spread


def _tail(effect: float, error: float, df: int) -> float:
    """P(T >= effect / error) under Student's t."""
    return float(special.stdtr(df, -_ratio(effect, error)))


def _sign_flip(d: np.ndarray) -> float:
    """Two-sided p of the mean when each difference may as well have had the other sign; 1 without differences.

    Sums that agree up to rounding are ties. scipy.stats.permutation_test tolerates too little rounding for that: of
    differences of accuracies, which have many ties, it answers too small a p.
    """
    n = len(d)
    if n == 0:
        return 1.0
    if n <= _EXACT_UP_TO:
        sums = d[:1]  # the first sign stays: the other half mirrors this one
        for x in d[1:]:
            sums = np.concatenate([sums + x, sums - x])
    else:
        rng, sums = np.random.default_rng(0), np.zeros(_RESAMPLES + 1)
        for x in d:
            signs = rng.choice((-1.0, 1.0), _RESAMPLES + 1)
            signs[0] = 1.0  # what was observed counts as one of the flips
            sums += x * signs
    return float((np.abs(sums) >= abs(d.sum()) - 1e-12 * np.abs(d).sum()).mean())


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjust p-values of one family so that comparing each to alpha bounds the family's error (Holm 1979).

    Args:
        p_values: (m,) in [0, 1], in any order; m may be 0.

    Returns:
        (m,) float64, in the same order: the k-th smallest of m times m - k + 1, never below a smaller one's, at most 1.

    Raises:
        ValueError: for a value outside of [0, 1], or NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"Invalid p_values: {list(p_values)}; each must be in [0, 1]")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def smallest_p(n: int, contrasts: int) -> float:
    """Smallest p that an exact sign-flip test of n pairs can reach as the first of Holm's contrasts; at most 1."""
    return min(1.0, contrasts * 2.0 ** (1 - n))


def seeds_needed(contrasts: int, alpha: float = 0.05) -> int:
    """Fewest pairs, at least 6, with which an exact sign-flip test with Holm over the contrasts can reach alpha."""
    return max(6, math.ceil(1 + math.log2(contrasts / alpha)))


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
