"""Statistics of runs: paired differences, and times to a target. Needs only numpy and scipy.

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
_BOOTSTRAP_FROM = 10  # pairs; with fewer, bootstrap intervals are far too narrow
_POWER = 0.8


@dataclass(frozen=True)
class Paired:
    """Statistics of the difference A - B from n pairs of runs, one of arm A and one of arm B each.

    Numbers are floats in the metric's unit, or probabilities. Numbers that n pairs do not determine are NaN: all of
    them if n = 0, and those that need a spread if n = 1. Two arms that agree bit for bit have the interval [0, 0] and
    p = 1. A constant difference other than 0 has no spread, so that its p is 0.

    Attributes:
        n: number of pairs.
        differences: A - B, for each pair.
        mean: mean of the differences.
        sd: sample standard deviation of the differences (with n - 1 in the denominator).
        low: lower end of the two-sided paired-t interval at 1 - alpha.
        high: its upper end.
        alpha: the level of all intervals, in (0, 0.5).
        d_z: effect size mean / sd; 0 if both are 0, infinite if only sd is 0.
        wins: number of pairs in which A is higher.
        ties: number of pairs in which both are equal.
        losses: number of pairs in which B is higher.
        probability: P(A > B) over all n * n cross pairs, where ties count half (Mann-Whitney's U / n**2).
        p_t: two-sided p of the paired t-test.
        p_equivalence: the larger p of two one-sided t-tests against -margin and margin (TOST; Schuirmann 1987).
        tost_low: lower end of the paired-t interval at 1 - 2 * alpha. A and B are equivalent at level alpha if and only
            if this interval lies inside (-margin, margin).
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
        """Two-sided p of the sign-flip test of the mean, exact up to 20 pairs, with 99,999 seeded flips above."""
        return _sign_flip(np.array(self.differences))

    @cached_property
    def detectable(self) -> float:
        """The smallest true difference that a two-sided t-test at alpha detects with power 0.8, if ``sd`` is true."""
        if self.n < 2:
            return math.nan
        noncentrality = special.nctdtrinc(self.n - 1, 1 - _POWER, special.stdtrit(self.n - 1, 1 - self.alpha / 2))
        return float(noncentrality) * self.sd / math.sqrt(self.n)

    @cached_property
    def bca(self) -> tuple[float, float] | None:
        """Bootstrap interval of the mean at 1 - alpha (BCa, 9,999 seeded resamples; Efron 1987); None below 10 pairs.

        It is computed at first use. At n = 10 it is still too narrow: use it together with the t interval.
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
    """Compare two arms by pairs of runs.

    Args:
        a: final metrics of arm A, (n,), higher is better; n may be 0.
        b: final metrics of arm B, (n,), from the same seeds in the same order.
        margin: difference below which two arms count as equivalent, in the metric's unit, at least 0.
        alpha: level of the intervals, in (0, 0.5). Default: 0.05.

    Raises:
        ValueError: for values that are not finite, different lengths, or a margin or alpha out of range.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"Invalid margin: {margin}; it must be finite and at least 0")
    if not 0 < alpha < 0.5:
        raise ValueError(f"Invalid alpha: {alpha}; it must be between 0 and 0.5")
    a, b = _values("a", a), _values("b", b)
    if len(a) != len(b):
        raise ValueError(f"Invalid b: {len(b)} values, but a has {len(a)}; give one of each for every pair")
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
        raise ValueError(f"Invalid {name}: shape {array.shape}; it must be a sequence of numbers, one per pair")
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"Invalid {name}: {bad} of {len(array)} values are not finite; drop these pairs from a and b")
    return array


def _ratio(effect: float, spread: float) -> float:
    """effect / spread, and its limits for a spread of 0: 0 for no effect, otherwise infinite."""
    if spread == 0:
        return math.copysign(math.inf, effect) if effect else 0.0
    return effect / spread


def _tail(effect: float, error: float, df: int) -> float:
    """P(T >= effect / error) under Student's t."""
    return float(special.stdtr(df, -_ratio(effect, error)))


def _sign_flip(d: np.ndarray) -> float:
    """Two-sided p of the mean if each difference could have had the other sign as well; 1 without differences.

    Sums that agree up to rounding count as ties. scipy.stats.permutation_test tolerates less rounding, so that its p is
    too small for differences of accuracies, which have many ties.
    """
    n = len(d)
    if n == 0:
        return 1.0
    if n <= _EXACT_UP_TO:
        sums = d[:1]  # the first sign is fixed, because the other half mirrors this one
        for x in d[1:]:
            sums = np.concatenate([sums + x, sums - x])
    else:
        rng, sums = np.random.default_rng(0), np.zeros(_RESAMPLES + 1)
        for x in d:
            signs = rng.choice((-1.0, 1.0), _RESAMPLES + 1)
            signs[0] = 1.0  # the observed signs count as one of the flips
            sums += x * signs
    return float((np.abs(sums) >= abs(d.sum()) - 1e-12 * np.abs(d).sum()).mean())


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjust the p-values of a family, so that comparing each with alpha bounds the family's error (Holm 1979).

    Args:
        p_values: p-values (m,) in [0, 1], in any order; m may be 0.

    Returns:
        Adjusted p-values (m,) float64, in the same order. The k-th smallest is multiplied by m - k + 1, and is at least
        as large as those before it, and at most 1.

    Raises:
        ValueError: for a value outside [0, 1], or NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"Invalid p_values: {list(p_values)}; each must be in [0, 1]")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def smallest_p(n: int, contrasts: int) -> float:
    """The smallest p that an exact sign-flip test of n pairs can reach, adjusted by Holm over the contrasts."""
    return min(1.0, contrasts * 2.0 ** (1 - n))


def seeds_needed(contrasts: int, alpha: float = 0.05) -> int:
    """The smallest number of pairs, at least 6, for which :func:`smallest_p` does not exceed alpha."""
    return max(6, math.ceil(1 + math.log2(contrasts / alpha)))


@dataclass(frozen=True)
class Hits:
    """Times to a target over the runs of one arm.

    Attributes:
        n: number of runs.
        hits: number of runs that reached the target within the horizon.
        rate: hits / n.
        median: the first time by which at least half of the runs reached the target; infinite if more than half missed.
        restricted_mean: mean of min(time, horizon), the average duration of a run that stops at the target.
        horizon: length of the runs, in the unit of the times.
    """

    n: int
    hits: int
    rate: float
    median: float
    restricted_mean: float
    horizon: float


def time_to_target(times: ArrayLike, values: ArrayLike, target: float, mode: Literal["max", "min"] = "max") -> float:
    """The first time at which a metric is at or beyond a target; infinite if it never is.

    Args:
        times: finite times of evaluations (evaluations,), in any unit and order.
        values: the metric at these times (evaluations,). NaN never reaches a target.
        target: the target, a finite number.
        mode: "max" if higher is better, "min" if lower is better. Default: "max".

    Raises:
        ValueError: for different lengths, times or a target that are not finite, or another mode.
    """
    times, values = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if times.shape != values.shape or times.ndim != 1:
        raise ValueError(f"Invalid values: shape {values.shape} for times of {times.shape}; give one for each time")
    if not np.isfinite(times).all():
        raise ValueError("Invalid times: some are not finite; leave out these evaluations")
    if not math.isfinite(target):
        raise ValueError(f"Invalid target: {target}; it must be finite")
    if mode not in ("max", "min"):
        raise ValueError(f"Invalid mode: {mode!r}; it must be max or min")
    reached = values >= target if mode == "max" else values <= target
    return float(times[reached].min(initial=math.inf))


def summarize_times(times: ArrayLike, horizon: float) -> Hits:
    """Summarize times to a target. Times after the horizon count as misses.

    Args:
        times: times (n,), one per run, with n at least 1; infinite for a miss.
        horizon: length of the runs, positive and finite.

    Raises:
        ValueError: for empty times, NaN, or an invalid horizon.
    """
    if not 0 < horizon < math.inf:
        raise ValueError(f"Invalid horizon: {horizon}; it must be positive and finite")
    ordered = np.sort(_times(times))
    ordered[ordered > horizon] = math.inf
    n, hits = len(ordered), int(np.isfinite(ordered).sum())
    median = float(ordered[(n - 1) // 2])
    return Hits(n, hits, hits / n, median, float(np.minimum(ordered, horizon).mean()), horizon)


def hit_curve(times: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The share of runs that have reached the target, as a step function of time.

    Args:
        times: times (n,), one per run, with n at least 1; infinite for a miss.

    Returns:
        Two float64 arrays of length 1 + number of different finite times: ascending times, from 0, and the share of all
        n runs from each time on, in [0, 1]. Draw it with steps after the points.

    Raises:
        ValueError: for empty times, or NaN.
    """
    times = _times(times)
    x, counts = np.unique(times[np.isfinite(times)], return_counts=True)
    return np.concatenate([[0.0], x]), np.concatenate([[0.0], counts.cumsum() / len(times)])


def _times(times: ArrayLike) -> np.ndarray:
    array = np.asarray(times, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or np.isnan(array).any():
        raise ValueError(f"Invalid times: {times}; it must be a sequence of at least one number, without NaN")
    return array
