"""Trigonometric series in several angles: nodes, evaluation, and the power of their terms.

Shapes: B batch, n inputs, K_q = 1 + 2 * degree_q terms (and nodes) of input q, O outputs. The basis of an input is 1,
cos x, sin x, cos 2x, sin 2x, ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor


def nodes(size: int) -> Tensor:
    """Evenly spaced angles in [0, 2 pi) that determine a series of ``size`` terms: (size,) float64."""
    return 2 * torch.pi * torch.arange(size, dtype=torch.float64) / size


def coefficients_from(values: Tensor) -> Tensor:
    """Coefficients of the series with ``values`` (K_1, ..., K_n, O) on the grid of nodes; same shape."""
    for axis, size in enumerate(values.shape[:-1]):
        values = _apply(torch.linalg.inv(basis(nodes(size), size)), values, axis)
    return values.contiguous()


def values_of(coefficients: Tensor) -> Tensor:
    """The inverse of :func:`coefficients_from`."""
    for axis, size in enumerate(coefficients.shape[:-1]):
        coefficients = _apply(basis(nodes(size), size), coefficients, axis)
    return coefficients


def _apply(matrix: Tensor, values: Tensor, axis: int) -> Tensor:  # multiplies one axis, not the last, by the matrix
    return (matrix @ values.movedim(axis, -2)).movedim(-2, axis)


def basis(x: Tensor, size: int) -> Tensor:
    """The basis 1, cos x, sin x, cos 2x, sin 2x, ... at angles x (...): (..., size)."""
    order, shift = _waves(size, x.dtype, x.device)
    return (x.unsqueeze(-1) * order - shift).cos()  # sin a = cos(a - pi / 2)


@lru_cache
@torch.inference_mode(False)  # cached tensors must work with autograd later
def _waves(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    index = torch.arange(size, device=device)
    shift = ((index > 0) & (index % 2 == 0)).double() * (torch.pi / 2)  # in float32 it would be off by 4e-8
    return ((index + 1) // 2).to(dtype), shift.to(dtype)


def node_weights(x: Tensor, size: int) -> Tensor:
    """The weight of each node's value in the value of the series at x (Dirichlet kernel): (...) to (..., size)."""
    distance = x.unsqueeze(-1) - nodes(size).to(x)
    harmonics = torch.arange(1, size // 2 + 1, dtype=x.dtype, device=x.device)
    return (1 + 2 * (distance.unsqueeze(-1) * harmonics).cos().sum(-1)) / size


def contract(inputs: Tensor, tensor: Tensor, waves_of: Callable[[Tensor, int], Tensor] = basis) -> Tensor:
    """Sum ``tensor`` over all axes but the last, weighted by functions of one input each.

    A matrix product contracts the first half of the inputs, a batched one the others.

    Args:
        inputs: (B, n).
        tensor: (K_1, ..., K_n, O).
        waves_of: maps (angles, size) to weights (..., size). Default: :func:`basis`, which evaluates a series.

    Returns:
        (B, O).
    """
    *sizes, outputs = tensor.shape
    middle = (len(sizes) + 1) // 2
    if len(set(sizes)) == 1 and len(sizes) % 2 == 0:  # both halves at once
        waves = waves_of(inputs, sizes[0]).unflatten(1, (2, middle))
        first, rest = outer(waves.unbind(2)).unbind(1)
    else:
        each = [waves_of(inputs[:, q], size) for q, size in enumerate(sizes)]
        first, rest = outer(each[:middle]), outer(each[middle:]) if each[middle:] else None
    out = first @ tensor.reshape(first.shape[1], -1)  # first: (B, K_1 ... K_middle)
    if rest is None:
        return out
    return torch.bmm(rest.unsqueeze(1), out.view(len(inputs), rest.shape[1], outputs)).squeeze(1)


def outer(vectors: Sequence[Tensor]) -> Tensor:
    """Row-wise outer products of (..., K_q) for each q: (..., product of K_q); the first input varies slowest."""
    out = vectors[0]
    for vector in vectors[1:]:
        out = (out.unsqueeze(-1) * vector.unsqueeze(-2)).flatten(-2)
    return out


def count_terms(sizes: Sequence[int], together: int) -> int:
    """The number of products of waves of at most ``together`` angles."""
    return sum(math.prod(size - 1 for size in chosen) for m in range(together + 1) for chosen in combinations(sizes, m))


def design(inputs: Tensor, sizes: Sequence[int], together: int) -> Tensor:
    """The products of waves of at most ``together`` angles at inputs (N, I): (N, terms)."""
    waves = [basis(inputs[:, q], size)[:, 1:] for q, size in enumerate(sizes)]
    columns = [inputs.new_ones(len(inputs), 1)]
    for m in range(1, together + 1):
        columns += [outer(chosen) for chosen in combinations(waves, m)]
    return torch.cat(columns, 1)


class PowerSplit(NamedTuple):
    """The mean square of each output, and its shares; each is (O,) float64.

    The shares add up to 1, or are all 0 if the output is 0. ``multi`` does not measure entanglement: the joint outcomes
    of two qubits that never interact, Ry(a) and Ry(b), have 1/9 of their power in it.

    Attributes:
        constant: share of the squared mean.
        single: share of the best sum of functions of one angle each.
        multi: share of the rest, which depends on several angles together.
        total: the mean square.
    """

    constant: Tensor
    single: Tensor
    multi: Tensor
    total: Tensor


def _shares(constant: Tensor, single: Tensor, total: Tensor) -> PowerSplit:
    scale = torch.where(total > 0, total, 1)
    constant, single = constant / scale, single / scale
    multi = torch.where(total > 0, 1 - constant - single, 0).clamp(min=0)
    return PowerSplit(constant, single, multi, total)


def split_samples(values: Tensor, samples: Tensor, sizes: Sequence[int]) -> PowerSplit:
    """Split the power of a function of angles by projection, under the distribution of samples.

    The angles may depend on each other. The fit counts chance agreement as single-angle power, about multi * terms / N;
    for shares with an error of 1 %, N should be at least 100 times the number of terms, or the samples a complete grid.

    Args:
        values: (N, O), the function at the samples.
        samples: (N, n) angles, radians.
        sizes: number of terms of the series in each angle, 1 + 2 * degree.

    Raises:
        ValueError: if N is below 10 times the number of terms, 1 + the sum of (size - 1).
    """
    columns = sum(size - 1 for size in sizes)
    if len(samples) < 10 * (columns + 1):
        raise ValueError(
            f"Invalid samples: {len(samples)} rows; a split of this series needs {10 * (columns + 1)} or more"
        )
    samples, values = samples.double(), values.double()
    mean = values.mean(0)
    design = torch.cat([basis(samples[:, q], size)[:, 1:] for q, size in enumerate(sizes)], -1)  # (N, columns)
    design = design - design.mean(0)
    centred = values - mean
    # Angles that hardly vary make nearly dependent columns, which gelsd can handle.
    fitted = design @ torch.linalg.lstsq(design, centred, rcond=1e-12, driver="gelsd").solution
    return _shares(mean.square(), fitted.square().mean(0), values.square().mean(0))


def split_uniform(coefficients: Tensor) -> PowerSplit:
    """Split the power of a series under independent, uniform angles, exactly (Parseval).

    Args:
        coefficients: (K_1, ..., K_n, O), in the basis of this module.
    """
    sizes = coefficients.shape[:-1]
    grids = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    waves = torch.stack([grid > 0 for grid in grids]).sum(0)  # angles that a term depends on
    power = coefficients.double().square() * 0.5 ** waves.unsqueeze(-1)
    constant, single = (power[waves == count].sum(0) for count in (0, 1))
    return _shares(constant, single, power.flatten(0, -2).sum(0))
