"""Outputs of a circuit as trigonometric series in its angles, by least squares over the angles that occurred.

Shapes: N rows, I angles, O outputs, K_q = 1 + 2 * degree of angle q.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from lightning_qsgd.audit.findings import Shares
from lightning_qsgd.quantum.fourier import basis, outer, split_samples

MAX_TERMS = 1_000
PER_TERM = 10  # rows that each term of a fit needs at least


@dataclass(frozen=True)
class Series:
    """A sum of products of waves (1, cos x, sin x, cos 2x, ...) of at most ``together`` angles each.

    Attributes:
        sizes: K_q, terms of the series in each angle.
        together: 0 (a constant), 1 or 2.
        coefficients: (terms, O).
    """

    sizes: Sequence[int]
    together: int
    coefficients: Tensor

    @classmethod
    def fit(cls, inputs: Tensor, outputs: Tensor, sizes: Sequence[int], together: int) -> Series:
        """Least squares.

        Args:
            inputs: (N, I) radians, float64.
            outputs: (N, O), float64.

        Raises:
            ValueError: if N is below 10 times the number of terms, or these are more than 1,000.
        """
        terms = count_terms(sizes, together)
        if terms > MAX_TERMS or len(inputs) < PER_TERM * terms:
            raise ValueError(
                f"{terms:,} terms take {PER_TERM * terms:,} rows or more, and there are {len(inputs):,}"
                if terms <= MAX_TERMS
                else f"{terms:,} terms are more than {MAX_TERMS:,}"
            )
        columns = design(inputs, sizes, together)
        # Inputs that hardly move make columns that are nearly dependent: gelsd drops what float32 cannot tell.
        return cls(sizes, together, torch.linalg.lstsq(columns, outputs, rcond=1e-7, driver="gelsd").solution)

    def __call__(self, inputs: Tensor) -> Tensor:
        """(N, I) float64 to (N, O)."""
        chunks = [design(rows, self.sizes, self.together) @ self.coefficients for rows in inputs.split(4096)]
        return torch.cat(chunks)


def count_terms(sizes: Sequence[int], together: int) -> int:
    """Products of waves of at most ``together`` angles."""
    return sum(math.prod(size - 1 for size in chosen) for m in range(together + 1) for chosen in combinations(sizes, m))


def design(inputs: Tensor, sizes: Sequence[int], together: int) -> Tensor:
    """Those products at inputs (N, I): (N, terms)."""
    waves = [basis(inputs[:, q], size)[:, 1:] for q, size in enumerate(sizes)]
    columns = [inputs.new_ones(len(inputs), 1)]
    for m in range(1, together + 1):
        columns += [outer(chosen) for chosen in combinations(waves, m)]
    return torch.cat(columns, 1)


def shares(inputs: Tensor, outputs: Tensor, sizes: Sequence[int], noise: Tensor) -> tuple[Shares, list[Shares]]:
    """Shares of all outputs, weighted by their power, and of each.

    Args:
        inputs: (N, I) radians, those that occurred.
        outputs: (N, O), the layer's answers.
        sizes: K_q.
        noise: (O,), mean square of what the same inputs do not repeat.

    Raises:
        ValueError: if N is too small for the projection.
    """
    split = split_samples(outputs, inputs, sizes)
    total = split.total
    rest = torch.minimum(noise / torch.where(total > 0, total, 1), split.multi)  # noise is in what is left
    parts = torch.stack([split.constant, split.single, split.multi - rest, rest])  # (4, O)
    power = total.sum()
    whole = (parts * total).sum(1) / torch.where(power > 0, power, 1)
    each = [
        Shares(*column.tolist(), power=p.item(), rows=len(inputs)) for column, p in zip(parts.T, total, strict=True)
    ]
    return Shares(*whole.tolist(), power=total.mean().item(), rows=len(inputs)), each
