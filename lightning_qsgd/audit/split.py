"""Fit trigonometric series by least squares over recorded angles, and compute shares of power.

Shapes: N rows (inputs of a layer, or blocks of weights), I or n angles, O outputs, K_q = 1 + 2 * degree of angle q,
C columns of the design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_qsgd.audit.findings import Shares
from lightning_qsgd.quantum.fourier import count_terms, design, split_samples

MAX_TERMS = 1_000
PER_TERM = 10  # minimum number of rows for each term of a fit


@dataclass(frozen=True)
class Series:
    """A sum of products of waves (1, cos x, sin x, cos 2x, ...) of at most ``together`` angles each.

    Attributes:
        sizes: number of terms of the series in each angle, K_q.
        together: maximum number of angles in a product: 0 (a constant), 1 or 2.
        coefficients: coefficients (terms, O), float64.
    """

    sizes: Sequence[int]
    together: int
    coefficients: Tensor

    @classmethod
    def fit(cls, inputs: Tensor, outputs: Tensor, sizes: Sequence[int], together: int) -> Series:
        """Fit a series by least squares.

        Args:
            inputs: angles (N, I) in radians, float64.
            outputs: outputs (N, O), float64.
            sizes: number of terms of the series in each angle.
            together: maximum number of angles in a product: 0, 1 or 2.

        Raises:
            ValueError: if there are more than 1,000 terms, or N is below 10 times their number.
        """
        terms = count_terms(sizes, together)
        if terms > MAX_TERMS or len(inputs) < PER_TERM * terms:
            raise ValueError(
                f"{terms:,} terms take {PER_TERM * terms:,} rows or more, and there are {len(inputs):,}"
                if terms <= MAX_TERMS
                else f"{terms:,} terms are more than {MAX_TERMS:,}"
            )
        columns = design(inputs, sizes, together)
        # Inputs that hardly move give nearly dependent columns; gelsd drops differences below the precision of float32.
        return cls(sizes, together, torch.linalg.lstsq(columns, outputs, rcond=1e-7, driver="gelsd").solution)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Evaluate the series at inputs (N, I), float64; returns (N, O)."""
        chunks = [design(rows, self.sizes, self.together) @ self.coefficients for rows in inputs.split(4096)]
        return torch.cat(chunks)


def shares(inputs: Tensor, outputs: Tensor, sizes: Sequence[int], noise: Tensor) -> tuple[Shares, list[Shares]]:
    """Split the power of outputs into shares.

    Args:
        inputs: recorded inputs (N, I) in radians.
        outputs: outputs of the layer (N, O).
        sizes: number of terms of the series in each angle, K_q.
        noise: noise power of each output (O,).

    Returns:
        The shares of all outputs, weighted by their power, and the shares of each output.

    Raises:
        ValueError: if N is too small for the projection.
    """
    split = split_samples(outputs, inputs, sizes)
    total = split.total
    rest = torch.minimum(noise / torch.where(total > 0, total, 1), split.multi)  # multi still contains noise
    parts = torch.stack([split.constant, split.single, split.multi - rest, rest])  # (4, O)
    power = total.sum()
    whole = (parts * total).sum(1) / torch.where(power > 0, power, 1)
    each = [
        Shares(*column.tolist(), power=p.item(), rows=len(inputs)) for column, p in zip(parts.T, total, strict=True)
    ]
    return Shares(*whole.tolist(), power=total.mean().item(), rows=len(inputs)), each


RESAMPLES = 400


class Split:
    """Splits a modulation by least squares on sums of one-angle series, for all rows or for groups of rows.

    The angles of a block are not independent, and the basis is not orthogonal under their distribution. The parts are
    therefore projections: "constant" is the mean, "single-angle" is what the best sum of one-angle series adds, and
    "multi-angle" is the remainder of the function of the angles.

    Args:
        angles: angles (N, n) in radians, NaN in padding, whose angle is 0.
        s: recorded modulation (N, n), NaN in padding.
        weights: number of blocks that each row represents (N,).
        sizes: number of terms of the series in each angle, 1 + 2 * degree.
        clean: s without noise (N, n). Default: None, s has no noise, or ``noise`` measures it.
        noise: estimates of the noise variance of s (R, n), one for each block that was evaluated twice, NaN in padding.
            Only without ``clean``. Default: None, no noise.
        function: whether s without noise is a function of a row's angles. If not, as for a frozen table, the remainder
            of the one-angle series counts as rest. Default: True.
    """

    def __init__(
        self,
        angles: Tensor,
        s: Tensor,
        weights: Tensor,
        sizes: Sequence[int],
        clean: Tensor | None = None,
        noise: Tensor | None = None,
        function: bool = True,
    ) -> None:
        self.columns = 1 + sum(size - 1 for size in sizes)
        self._real = ~s.isnan()
        self._s = s.double().nan_to_num()
        self._clean = self._s if clean is None else clean.double().masked_fill(~self._real, 0)
        self._repeats = torch.zeros(1, s.shape[1], dtype=torch.float64) if noise is None else noise.double()
        self._function = function
        self._weights = weights.double()
        self._design = whitened(angles.double().nan_to_num(), self._weights, sizes)

    @property
    def enough(self) -> int:
        """Number of rows that a projection needs, 10 for each column."""
        return 10 * self.columns

    def fitted(self) -> Tensor:
        """The best sum of one-angle series, including the constant, at each row (N, n)."""
        gram, moments, *_ = self._sums(slice(None))
        return (self._design @ solve(gram, moments).T).masked_fill(~self._real, torch.nan)

    def shares(self, rows: Tensor | slice = slice(None), qubit: int | None = None) -> Shares:
        """Compute the shares of some rows, with projections of these rows only.

        Args:
            rows: indices, a mask or a slice. Default: all rows.
            qubit: number of an output. Default: None, the sum over all outputs.
        """
        chosen = slice(None) if qubit is None else slice(qubit, qubit + 1)
        sums, count = self._sums(rows), len(self._weights[rows])
        return _shares(self._parts(*sums, self._noise(), count)[chosen], sums[2][chosen], count)

    def intervals(
        self, groups: NDArray[np.int64], clusters: NDArray[np.int64], seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """95 % intervals of the four shares: quantiles over resamples of whole clusters within their groups.

        The estimates of noise are resampled, too.

        Args:
            groups: number of the group of each cluster (clusters,). Clusters of a group, such as the blocks of one
                tensor, are exchangeable.
            clusters: number of the cluster of each row (N,), such as its block of weights.
            seed: seed of the resamples. Default: 0.

        Returns:
            Lower and upper ends by the name of the share.
        """
        rng = np.random.default_rng(seed)
        ends = np.bincount(clusters, minlength=len(groups)).cumsum()
        members_of = np.split(np.argsort(clusters, kind="stable"), ends[:-1])
        sums = [self._sums(torch.from_numpy(rows)) for rows in members_of]
        stacked = [torch.stack(parts) for parts in zip(*sums, strict=True)]
        counts = torch.zeros(RESAMPLES, len(groups), dtype=torch.float64)
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            times = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), RESAMPLES)
            counts[:, members] = torch.from_numpy(times).double()
        asked = len(self._repeats)
        noise = self._noise(torch.from_numpy(rng.multinomial(asked, np.full(asked, 1 / asked), RESAMPLES)))
        gram, moments, weight, squares, apart = (torch.tensordot(counts, values, 1) for values in stacked)
        drawn = self._parts(gram, moments, weight, squares, apart, noise, len(clusters))  # (RESAMPLES, n, 5)
        *parts, power = drawn.sum(1).unbind(-1)
        shares = torch.stack(parts, 1) / torch.where(power > 0, power, 1)[:, None]
        low, high = np.quantile(shares.numpy(), (0.025, 0.975), axis=0)
        names = ("constant", "single", "multi", "rest")
        return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}

    def _noise(self, counts: Tensor | None = None) -> Tensor:
        """The noise variance (..., n), with each repetition counted (..., R) times. Default: once."""
        counts = torch.ones(len(self._repeats)) if counts is None else counts
        there = (~self._repeats.isnan()).double()
        return counts.double() @ (there * self._repeats.nan_to_num()) / (counts.double() @ there).clamp(min=1)

    def _sums(self, rows: Tensor | slice) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """For each output, Gram matrix, moments, and sums of weights, of clean squares and of squared noise."""
        weights = self._weights[rows, None] * self._real[rows]
        design, clean = self._design[rows], self._clean[rows]
        gram = torch.stack([(design * w[:, None]).T @ design for w in weights.T])
        moments = (weights * clean).T @ design
        squares = (weights * clean**2).sum(0)
        apart = (weights * (self._s[rows] - clean) ** 2).sum(0)
        return gram, moments, weights.sum(0), squares, apart

    def _parts(
        self,
        gram: Tensor,
        moments: Tensor,
        weight: Tensor,
        squares: Tensor,
        apart: Tensor,
        variance: Tensor,
        count: int,
    ) -> Tensor:
        """Sums (not means) over rows of constant, single, multi, rest and their total (..., n, 5)."""
        constant = moments[..., 0] ** 2 / gram[..., 0, 0].clamp(min=torch.finfo(torch.float64).tiny)
        explained = (solve(gram, moments) * moments).sum(-1)
        noise = variance * weight
        single = explained - constant - noise * (self.columns - 1) / max(count, 1)  # fits some noise by chance
        single = single.clamp(min=0)
        left = (squares - constant - single - noise).clamp(min=0)
        left = torch.where(left > 1e-12 * squares, left, 0)
        multi, other = (left, 0 * left) if self._function else (0 * left, left)
        rest = apart + noise.minimum(squares) + other
        return torch.stack((constant, single, multi, rest, constant + single + multi + rest), -1)


def _shares(parts: Tensor, weights: Tensor, rows: int) -> Shares:
    *shares, power = (parts.sum(0) / weights.sum()).tolist()
    return Shares(*(share / (power or 1.0) for share in shares), power=power, rows=rows, weight=float(weights.sum()))


def whitened(angles: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    """A constant, and a weighted orthonormal basis of the centred one-angle waves (N, 1 + columns).

    Angles that hardly move give nearly dependent columns. Directions with singular values below 1e-10 of the largest
    are left out.
    """
    waves = design(angles, sizes, 1)[:, 1:]
    share = weights / weights.sum()
    waves = waves - share @ waves
    u, values, _ = torch.linalg.svd(share.sqrt()[:, None] * waves, full_matrices=False)
    kept = values > 1e-10 * values.max().clamp(min=1e-30)
    white = u[:, kept] / share.sqrt()[:, None]
    return torch.cat([torch.ones(len(angles), 1, dtype=torch.float64), white], 1)


def solve(gram: Tensor, moments: Tensor) -> Tensor:
    """Solve normal equations (..., n, C, C) and (..., n, C) by least squares; missing directions get 0."""
    inverse = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True)
    return (inverse @ moments.unsqueeze(-1)).squeeze(-1)
