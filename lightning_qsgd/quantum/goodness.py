"""Tests of a surrogate against measured frequencies: does it fit held-out points, and did the device drift?

With many shots, even a tiny misfit is significant; with few shots, a large one may be chance. A residual is therefore
too large only if it is both much larger than shots explain, and significant.

Shapes: M points, C cells of a distribution (outcomes, rare ones pooled), J grid points, O outcomes or observables.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg, stats
from torch import Tensor

from lightning_qsgd.quantum.fourier import node_weights, outer, values_of
from lightning_qsgd.quantum.light_cone import LightConeSurrogate
from lightning_qsgd.quantum.surrogate import FourierSurrogate

MIN_COUNT = 10.0  # expected counts of a cell, below which chi-square's normal approximation is poor
MAX_CELLS = 16
MAX_POINTS = 128  # held-out points in one covariance; the time of the test is cubic in them

FAR = 2.0  # times what shots explain; the misfit then exceeds the shot noise of the series itself
CHANCE = 1e-4  # a residual with a larger p-value may be chance
ROUNDING = 1e-5  # largest residual of exact probabilities; in float32 it is below 1e-6


class Verdict(NamedTuple):
    """A chi-square ``statistic`` with ``dof`` degrees of freedom and its p-value; None if exact, or too few shots."""

    statistic: float | None
    dof: int
    p: float | None
    largest: float  # absolute difference of a probability


class Residual(NamedTuple):
    """The root mean square difference ``found`` between probabilities, and ``expected``, what shots alone explain.

    ``p`` is the p-value of the chi-square test. It is None if the probabilities are exact, there are too few shots for
    a test, or ``found`` is not far above ``expected``.
    """

    found: float
    expected: float
    exact: bool
    p: float | None = None

    @property
    def too_large(self) -> bool:
        """Whether it is so much larger than shots or rounding explain that the series does not describe its sampler.

        With shots, this is above twice ``expected`` with a p-value below 1e-4; if exact, above 1e-5.
        """
        if self.exact:
            return self.found > ROUNDING
        return self.p is not None and self.p < CHANCE and self.found > FAR * self.expected

    def __str__(self) -> str:
        chance = "" if self.p is None else f" (p = {self.p:.1e})" if self.p > 1e-99 else " (p < 1e-99)"
        explained = "exact probabilities leave only rounding" if self.exact else f"shots explain {self.expected:.2g}"
        return f"residual of {self.found:.2g}, where {explained}{chance}"


def residual_of(
    surrogate: FourierSurrogate | LightConeSurrogate, points: Tensor, measured: Tensor, shots: int
) -> Residual:
    """Compare a series with circuits that it was not fitted to.

    Both have shot noise, so the expected mean square is the sum of their variances.

    Args:
        surrogate: the series.
        points: (M, n) float64, not on the grid.
        measured: (M, O) float64, the measured values of the series there.
        shots: shots behind each row of ``measured``; 0 if exact.
    """
    noise = surrogate.variance(points)
    if shots:
        noise = noise + measured * (1 - measured) / max(shots - 1, 1)
    found = float((surrogate(points) - measured).square().mean().sqrt())
    result = Residual(found, float(noise.mean().sqrt()), not shots and not surrogate.shots)
    if result.exact or found <= FAR * result.expected:
        return result
    return result._replace(p=_p_value(surrogate, points, measured.numpy(), shots))


def _p_value(
    surrogate: FourierSurrogate | LightConeSurrogate, points: Tensor, measured: NDArray[np.float64], shots: int
) -> float | None:
    if isinstance(surrogate, FourierSurrogate):
        return surrogate_test(surrogate, points, measured, shots).p
    found = []  # for each observable, the p-value of its two parities
    for inputs, outputs, part in surrogate.parts:
        for k, output in enumerate(outputs):
            odd = part.coefficients[..., k]
            even = -odd
            even[(0,) * odd.ndim] += 1
            both = np.stack([1 - measured[:, output], measured[:, output]], -1)
            series = FourierSurrogate(torch.stack([even, odd], -1), part.shots)
            found.append(surrogate_test(series, points[:, inputs], both, shots).p)
    tested = [p for p in found if p is not None]
    return min(1.0, len(tested) * min(tested)) if tested else None  # Bonferroni, because they share their shots


def surrogate_test(
    surrogate: FourierSurrogate, points: Tensor, frequencies: NDArray[np.float64], shots: int | None = None
) -> Verdict:
    """Chi-square test of held-out frequencies against the surrogate, which is noisy too.

    The covariance of the differences has two parts: the shots at the held-out points, and the shots on the grid, which
    all predictions share with weights w_j(x): sum_j w_j(x) w_j(x') cov(p_j). Without the second part, a perfect device
    would be rejected. As in a two-sample test, the first part is estimated from prediction and measurement together;
    from noisy predictions alone, rare cells would weigh too much.

    Args:
        surrogate: a surrogate fitted to shots.
        points: (M, n) float64, not on the grid.
        frequencies: (M, O) frequencies measured there. Only the first 128 points are tested; ``largest`` is over all.
        shots: shots behind each of them. Default: the same as behind a grid point.
    """
    predicted = surrogate(points).numpy()
    largest = float(np.abs(frequencies - predicted).max())
    shots = surrogate.shots if shots is None else shots
    if not surrogate.shots or not shots:
        return Verdict(None, 0, None, largest)
    points, predicted, frequencies = points[:MAX_POINTS], predicted[:MAX_POINTS], frequencies[:MAX_POINTS]
    kept = _cells(predicted.clip(0).mean(0), 0, MAX_CELLS)  # (O, C)
    grid = values_of(surrogate.coefficients).flatten(0, -2).numpy() @ kept  # (J, C)
    # Jeffreys' prior: outcomes that did not occur may still be possible
    grid = (grid * surrogate.shots + 0.5) / (surrogate.shots + 0.5 * grid.shape[1])
    predicted, frequencies = predicted @ kept, frequencies @ kept
    sizes = surrogate.coefficients.shape[:-1]
    weights = outer([node_weights(points[:, q], size) for q, size in enumerate(sizes)]).numpy()  # (M, J)
    both = ((predicted + frequencies) / 2).clip(0)
    pools = [_cells(row, MIN_COUNT / shots, MAX_CELLS)[:, 1:] for row in both]
    rows = np.repeat(np.arange(len(points)), [pool.shape[1] for pool in pools])  # the point of each tested cell
    pool = np.concatenate([pool.T for pool in pools])  # (D, C), without one cell of each point, since they add up to 1
    if not len(rows):
        return Verdict(None, 0, None, largest)
    difference = (pool * (frequencies - predicted)[rows]).sum(1)
    covariance = np.zeros((len(rows), len(rows)))
    for cell in range(grid.shape[1]):
        half = weights[rows] * pool[:, cell : cell + 1] * np.sqrt(grid[:, cell].clip(0))
        covariance += half @ half.T
    means = weights[rows] * (pool @ grid.T)
    covariance -= means @ means.T
    covariance /= max(surrogate.shots - 1, 1)
    expected = (pool * both[rows]).sum(1)
    same = rows[:, None] == rows
    covariance += (np.diag(expected) - np.where(same, np.outer(expected, expected), 0)) / shots
    values, vectors = linalg.eigh(covariance)
    kept = values > 1e-9 * values.max()
    statistic = float(((vectors[:, kept].T @ difference) ** 2 / values[kept]).sum())
    return Verdict(statistic, int(kept.sum()), float(stats.chi2.sf(statistic, kept.sum())), largest)


def drift_test(frequencies: NDArray[np.float64], shots: int) -> Verdict:
    """Test whether repeats of one point come from one distribution, by a chi-square test of homogeneity.

    Args:
        frequencies: (R, O).
        shots: shots of each repeat; 0 if exact.
    """
    mean = frequencies.mean(0)
    largest = float(np.abs(frequencies - mean).max())
    cells = _cells(mean, MIN_COUNT / max(shots, 1), MAX_CELLS)
    if not shots or cells.shape[1] < 2:
        return Verdict(None, 0, None, largest)
    result = stats.chi2_contingency(np.rint(frequencies * shots) @ cells, correction=False)
    return Verdict(float(result.statistic), int(result.dof), float(result.pvalue), largest)  # type: ignore[attr-defined]


def _cells(probabilities: NDArray[np.float64], smallest: float, most: int) -> NDArray[np.float64]:
    """A matrix (O, C) of 0 and 1 that assigns outcomes to cells: rare ones to the first, likely ones to one each."""
    order = np.argsort(-probabilities, kind="stable")
    own = [k for k in order[: most - 1] if probabilities[k] >= smallest]
    rest = np.setdiff1d(np.arange(len(probabilities)), own)
    if len(rest) and probabilities[rest].sum() < smallest and own:  # the rest joins the rarest of the others
        rest = np.append(rest, own.pop())
    cells = np.zeros((len(probabilities), len(own) + bool(len(rest))))
    if len(rest):
        cells[rest, 0] = 1
    cells[own, np.arange(cells.shape[1] - len(own), cells.shape[1])] = 1
    return cells
