"""Trigonometric series in several angles: nodes, bases, evaluation.

Shapes: B batch, n inputs, K_q = 1 + 2 * degree_q terms (and nodes) of input q, O outputs. The basis of an input is 1,
cos x, sin x, cos 2x, sin 2x, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor


def nodes(size: int) -> Tensor:
    """(size,) float64: evenly spaced angles in [0, 2 pi), which determine a series of ``size`` terms."""
    return 2 * torch.pi * torch.arange(size, dtype=torch.float64) / size


def coefficients_from(values: Tensor) -> Tensor:
    """Coefficients of the series that takes ``values`` (K_1, ..., K_n, O) on the grid of nodes; same shape."""
    for axis, size in enumerate(values.shape[:-1]):
        values = _apply(torch.linalg.inv(basis(nodes(size), size)), values, axis)
    return values.contiguous()


def values_of(coefficients: Tensor) -> Tensor:
    """The inverse of :func:`coefficients_from`."""
    for axis, size in enumerate(coefficients.shape[:-1]):
        coefficients = _apply(basis(nodes(size), size), coefficients, axis)
    return coefficients


def _apply(matrix: Tensor, values: Tensor, axis: int) -> Tensor:  # the matrix to one axis, which is not the last
    return (matrix @ values.movedim(axis, -2)).movedim(-2, axis)


def basis(x: Tensor, size: int) -> Tensor:
    """(...) to (..., size): 1, cos x, sin x, cos 2x, sin 2x, ..."""
    order, shift = _waves(size, x.dtype, x.device)
    return (x.unsqueeze(-1) * order - shift).cos()  # sin a = cos(a - pi / 2)


@lru_cache
@torch.inference_mode(False)  # what is kept must serve autograd later
def _waves(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    index = torch.arange(size, device=device)
    shift = ((index > 0) & (index % 2 == 0)).double() * (torch.pi / 2)  # not in float32, which is off by 4e-8
    return ((index + 1) // 2).to(dtype), shift.to(dtype)


def node_weights(x: Tensor, size: int) -> Tensor:
    """(...) to (..., size): the weight of each node's value in the series' value at x (Dirichlet kernel)."""
    distance = x.unsqueeze(-1) - nodes(size).to(x)
    harmonics = torch.arange(1, size // 2 + 1, dtype=x.dtype, device=x.device)
    return (1 + 2 * (distance.unsqueeze(-1) * harmonics).cos().sum(-1)) / size


def contract(inputs: Tensor, tensor: Tensor, waves_of: Callable[[Tensor, int], Tensor] = basis) -> Tensor:
    """Sum ``tensor`` (K_1, ..., K_n, O) over all axes but the last, weighted by waves of one input each.

    One matrix product takes the first half of the inputs, a batched one the others.

    Args:
        inputs: (B, n).
        tensor: (K_1, ..., K_n, O).
        waves_of: (angles, size) to weights (..., size). Default: :func:`basis`, which evaluates a series.

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
    """Row-wise outer products: each (..., K_q) to (..., product of K_q), the first input slowest."""
    out = vectors[0]
    for vector in vectors[1:]:
        out = (out.unsqueeze(-1) * vector.unsqueeze(-2)).flatten(-2)
    return out
