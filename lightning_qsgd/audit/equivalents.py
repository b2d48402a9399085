"""Classical maps in place of a modulation, and the share of its power that they reproduce.

Shapes: T recorded steps, P blocks, n angles and outputs of a block; M rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import prod

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.audit.findings import Truncation
from lightning_qsgd.quantum.fourier import basis, design, outer

SAMPLE = 3000  # rows to choose terms on, and as many to test them on
MOST_CANDIDATES = 4096
MOST_TERMS = 40  # in the series of one qubit


def map_shares(
    angles: Tensor, s: Tensor, tensors: np.ndarray, weights: Tensor, fitted: Tensor
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Compute the share of the power of s that each classical map reproduces, 1 - mean square distance / mean square.

    Args:
        angles, s: recorded angles and modulations (T, P, n), NaN where nothing was recorded.
        tensors: number of the tensor of each block (P,).
        weights: number of blocks that each recorded block represents (P,).
        fitted: the best sum of one-angle series (T, P, n).

    Returns:
        The shares by name (see :class:`lightning_qsgd.audit.findings.PerturbationFindings`), and the values of each map
        (T, P, n).
    """
    real, amplitude = ~s.isnan(), sine_amplitude(angles, s, weights)
    s, angles = s.double().nan_to_num(), angles.double().nan_to_num()
    w = weights.double()[None, :, None] * real
    _, owner = np.unique(tensors, return_inverse=True)
    owners = torch.from_numpy(owner)
    by_block = (w * s).sum((0, 2)), w.sum((0, 2))
    sums, counts = (torch.zeros(int(owners.max()) + 1, dtype=torch.float64).index_add(0, owners, v) for v in by_block)
    sine = angles.sin()
    mean_s, mean_sine = (w * s).sum() / w.sum(), (w * sine).sum() / w.sum()
    slope = (w * (s - mean_s) * (sine - mean_sine)).sum() / (w * (sine - mean_sine) ** 2).sum().clamp(min=1e-300)
    maps = {
        "one number": mean_s.expand_as(s),
        "one per qubit": ((w * s).sum((0, 1)) / w.sum((0, 1)).clamp(min=1e-300)).expand_as(s),
        "one per tensor": (sums / counts)[owners][None, :, None].expand_as(s),
        "one per coordinate": ((w * s).sum(0) / w.sum(0).clamp(min=1e-300)).expand_as(s),
        "frozen at step 0": s[0].expand_as(s),
        "sine": amplitude * sine,
        "sine and constant": mean_s + slope * (sine - mean_sine),
        "one-angle series": fitted.double().nan_to_num(),
    }
    power = (w * s**2).sum()
    shares = {name: float(1 - (w * (s - values) ** 2).sum() / power) if power else 0.0 for name, values in maps.items()}
    return shares, maps


def sine_amplitude(angles: Tensor, s: Tensor, weights: Tensor) -> float:
    """The amplitude A of the best A * sin(angle) over all qubits; see :func:`map_shares` for shapes."""
    real = ~s.isnan()
    w, sine = weights.double()[None, :, None] * real, angles.double().nan_to_num().sin()
    return float((w * s.double().nan_to_num() * sine).sum() / (w * sine**2).sum().clamp(min=1e-300))


def truncate(
    angles: Tensor,
    values: Tensor,
    weights: Tensor,
    sizes: Sequence[int],
    error: float = 0.01,
    seed: int = 0,
    blocks: np.ndarray | None = None,
) -> Truncation:
    """Find a short series by forward selection that leaves at most ``error`` of the power on unseen rows.

    Each round adds the product of waves that reduces the squared error most, and refits all coefficients (orthogonal
    least squares). A shorter series may exist, so that the number of terms is an upper bound. If the whole series has
    more than 4,096 terms, only products of at most two angles are candidates.

    Args:
        angles: angles (N, n) in radians, without NaN.
        values: modulation without noise (N, n).
        weights: probabilities (N,), up to a factor, with which rows are drawn.
        sizes: number of terms of the series in each angle, 1 + 2 * degree.
        error: share of each qubit's power that may be left, in (0, 1). Default: 0.01.
        seed: seed of the rows. Default: 0.
        blocks: number of the block of each row (N,). Terms are chosen and tested on different blocks. Default: None,
            each row is a block.

    Returns:
        The length of the series, and its error.
    """
    rng = np.random.default_rng(seed)
    share = (weights / weights.sum()).double().numpy()
    half = min(SAMPLE, len(angles) // 2)
    owners = np.arange(len(angles)) if blocks is None else blocks
    parts = [np.flatnonzero(np.isin(owners, some)) for some in np.array_split(rng.permutation(np.unique(owners)), 2)]
    rows = [rng.choice(part, half, p=share[part] / share[part].sum()) for part in parts]
    chosen_on, tested_on = (_candidates(angles[row].double(), sizes) for row in rows)
    y, unseen = (values[row].double() for row in rows)
    orders = _orders(sizes)
    terms, left, power, largest = 0, 0.0, 0.0, 0
    complete = True
    for q in range(values.shape[1]):
        picked, reached = _select(chosen_on, y[:, q], error, torch.tensor(orders))
        fit = torch.linalg.lstsq(chosen_on[:, picked], y[:, q : q + 1], driver="gelsd").solution[:, 0]
        off = unseen[:, q] - tested_on[:, picked] @ fit
        terms, complete = terms + len(picked), complete and reached
        left, power = left + float(off @ off), power + float(unseen[:, q] @ unseen[:, q])
        largest = max(largest, *(orders[i] for i in picked)) if picked else largest
    left = left / power if power else 0.0
    candidates = len(orders) * values.shape[1]
    return Truncation(error, terms if complete and left <= 2 * error else None, candidates, left, largest)


def _terms(sizes: Sequence[int]) -> list[tuple[int, ...]] | None:
    """Sets of angles whose products are candidates; None for all sets."""
    if prod(sizes) <= MOST_CANDIDATES:
        return None
    return [(), *((q,) for q in range(len(sizes))), *combinations(range(len(sizes)), 2)]


def _candidates(angles: Tensor, sizes: Sequence[int]) -> Tensor:
    """Products of waves (M, candidates)."""
    if _terms(sizes) is None:
        return outer([basis(angles[:, q], size) for q, size in enumerate(sizes)])
    return design(angles, sizes, 2)


def _orders(sizes: Sequence[int]) -> list[int]:
    """The number of angles that each candidate depends on."""
    sets = _terms(sizes)
    if sets is None:
        grids = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
        return torch.stack([grid > 0 for grid in grids]).sum(0).flatten().tolist()
    return [len(chosen) for chosen in sets for _ in range(prod(sizes[q] - 1 for q in chosen))]


def _select(columns: Tensor, y: Tensor, error: float, orders: Tensor) -> tuple[list[int], bool]:
    """Select columns by orthogonal least squares; returns them in order, and whether ``error`` was reached.

    Among columns with nearly the same gain (within 2 %), of which there are many if angles hardly move, the one with
    the fewest angles is chosen.
    """
    limit = error * float(y @ y)
    columns, left, picked = columns.clone(), y.clone(), []
    size = columns.square().sum(0)
    alive = size > 0
    while float(left @ left) > limit and len(picked) < MOST_TERMS:
        norms = columns.square().sum(0)
        alive &= norms > 1e-10 * size  # other columns now depend on the picked ones
        gain = torch.where(alive, (columns.T @ left).square() / norms.clamp(min=1e-300), 0)
        if not gain.max() > 0:
            break
        near = gain >= 0.98 * gain.max()
        near &= orders == orders[near].min()
        best = int(torch.where(near, gain, 0).argmax())
        picked.append(best)
        direction = columns[:, best] / columns[:, best].norm()
        left = left - (direction @ left) * direction
        columns = columns - torch.outer(direction, direction @ columns)
        alive[best] = False
    return picked, float(left @ left) <= limit
