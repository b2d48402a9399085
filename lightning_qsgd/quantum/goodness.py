"""Tests of a surrogate against measured frequencies: does it fit held-out points, and did the device drift?

Shapes: M points, C cells of a distribution (outcomes, rare ones pooled), J grid points, O outcomes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats
from torch import Tensor

from lightning_qsgd.quantum.fourier import node_weights, outer, values_of
from lightning_qsgd.quantum.surrogate import FourierSurrogate

MIN_COUNT = 10.0  # expected counts of a cell, below which chi-square's normal approximation is poor
MAX_CELLS = 16
MAX_POINTS = 128  # held-out points in one covariance: the test's time is cubic in them


class Verdict(NamedTuple):
    """Chi-square ``statistic`` with ``dof`` degrees of freedom and p-value; None where exact or too few shots."""

    statistic: float | None
    dof: int
    p: float | None
    largest: float  # absolute difference of a probability


def surrogate_test(surrogate: FourierSurrogate, points: Tensor, frequencies: NDArray[np.float64]) -> Verdict:
    """Chi-square of held-out frequencies against the surrogate, which is noisy itself.

    The covariance of the differences has two parts: shots at the held-out points, and shots on the grid, which all
    predictions share with weights w_j(x): sum_j w_j(x) w_j(x') cov(p_j). Without the second a perfect device is
    rejected. As in a two-sample test, the first is estimated from prediction and measurement together: from noisy
    predictions alone, rare cells would weigh too much.

    Args:
        surrogate: fitted from the same number of shots a point.
        points: (M, n) float64, not on the grid.
        frequencies: (M, O) measured there. The first 128 points are tested; ``largest`` is of all.
    """
    predicted = surrogate(points).numpy()
    largest = float(np.abs(frequencies - predicted).max())
    if not surrogate.shots:
        return Verdict(None, 0, None, largest)
    shots = surrogate.shots
    points, predicted, frequencies = points[:MAX_POINTS], predicted[:MAX_POINTS], frequencies[:MAX_POINTS]
    kept = _cells(predicted.clip(0).mean(0), 0, MAX_CELLS)  # (O, C)
    grid = values_of(surrogate.coefficients).flatten(0, -2).numpy() @ kept  # (J, C)
    grid = (grid * shots + 0.5) / (shots + 0.5 * grid.shape[1])  # Jeffreys: what did not occur may still be possible
    predicted, frequencies = predicted @ kept, frequencies @ kept
    sizes = surrogate.coefficients.shape[:-1]
    weights = outer([node_weights(points[:, q], size) for q, size in enumerate(sizes)]).numpy()  # (M, J)
    both = ((predicted + frequencies) / 2).clip(0)
    pools = [_cells(row, MIN_COUNT / shots, MAX_CELLS)[:, 1:] for row in both]
    rows = np.repeat(np.arange(len(points)), [pool.shape[1] for pool in pools])  # the point of each tested cell
    pool = np.concatenate([pool.T for pool in pools])  # (D, C): one cell of each point is left out: they add up to 1
    if not len(rows):
        return Verdict(None, 0, None, largest)
    difference = (pool * (frequencies - predicted)[rows]).sum(1)
    covariance = np.zeros((len(rows), len(rows)))
    for cell in range(grid.shape[1]):
        half = weights[rows] * pool[:, cell : cell + 1] * np.sqrt(grid[:, cell].clip(0))
        covariance += half @ half.T
    means = weights[rows] * (pool @ grid.T)
    covariance -= means @ means.T
    covariance /= max(shots - 1, 1)
    expected = (pool * both[rows]).sum(1)
    same = rows[:, None] == rows
    covariance += (np.diag(expected) - np.where(same, np.outer(expected, expected), 0)) / shots
    return _chi_square(difference, covariance, largest)


def drift_test(frequencies: NDArray[np.float64], shots: int) -> Verdict:
    """Do repeats of one point, in the order they ran, come from one distribution?

    Chi-square of homogeneity (scipy.stats.chi2_contingency).

    Args:
        frequencies: (R, O).
        shots: of each repeat; 0: exact.
    """
    mean = frequencies.mean(0)
    largest = float(np.abs(frequencies - mean).max())
    cells = _cells(mean, MIN_COUNT / max(shots, 1), MAX_CELLS)
    if not shots or cells.shape[1] < 2:
        return Verdict(None, 0, None, largest)
    result = stats.chi2_contingency(np.rint(frequencies * shots) @ cells, correction=False)
    return Verdict(float(result.statistic), int(result.dof), float(result.pvalue), largest)  # type: ignore[attr-defined]


def _cells(probabilities: NDArray[np.float64], smallest: float, most: int) -> NDArray[np.float64]:
    """(O, C) of 0 and 1: each likely outcome a cell of its own, the others pooled in the first column."""
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


def _chi_square(difference: NDArray[np.float64], covariance: NDArray[np.float64], largest: float) -> Verdict:
    values, vectors = linalg.eigh(covariance)
    kept = values > 1e-9 * values.max()
    statistic = float(((vectors[:, kept].T @ difference) ** 2 / values[kept]).sum())
    return Verdict(statistic, int(kept.sum()), float(stats.chi2.sf(statistic, kept.sum())), largest)
