"""A Fourier series per head, as a function of attention scores, in plain tensor operations.

Shapes: H heads, J frequencies; coefficients (H, 2 J) are a_1, b_1, a_2, b_2, ... of sum_j a_j cos(j x) + b_j sin(j x).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def evaluate_series(angles: Tensor, coefficients: Tensor) -> Tensor:
    """The series, in plain tensor operations.

    Args:
        angles: (..., H, *, *), floating point, radians.
        coefficients: (H, 2 J), same dtype.

    Returns:
        The shape of angles.
    """
    total = torch.zeros_like(angles)
    for wave, coefficient in zip(waves_of(angles, coefficients.shape[1] // 2), coefficients.unbind(1), strict=True):
        total = total + coefficient[:, None, None] * wave
    return total


def waves_of(angles: Tensor, frequencies: int) -> list[Tensor]:
    """cos x, sin x, cos 2x, ... by Chebyshev's recurrence."""
    before, now = (torch.ones_like(angles), torch.zeros_like(angles)), (angles.cos(), angles.sin())
    twice, waves = 2 * now[0], []
    for _ in range(frequencies):
        waves += now
        before, now = now, (twice * now[0] - before[0], twice * now[1] - before[1])
    return waves


def derivative(coefficients: Tensor) -> Tensor:
    """Coefficients of a series' derivative by the angle, (H, 2 J)."""
    a, b = coefficients.unflatten(1, (-1, 2)).unbind(2)  # (H, J)
    j = torch.arange(1, a.shape[1] + 1, dtype=a.dtype, device=a.device)
    return torch.stack([j * b, -j * a], 2).flatten(1)


class CompiledSeries(torch.autograd.Function):
    """Phi of scores (B, H, T, K) for torch.compile, which fuses all this; it keeps scores and coefficients only."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, coefficients: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        """(B, H, T, K)."""
        ctx.save_for_backward(scores, coefficients, scale)
        return evaluate_series(scale[:, None, None] * scores, coefficients)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """Gradients of scores, coefficients and scale."""
        scores, coefficients, scale = ctx.saved_tensors
        angles = scale[:, None, None] * scores
        by_angles = grad * evaluate_series(angles, derivative(coefficients))
        waves = waves_of(angles, coefficients.shape[1] // 2)
        by_coefficients = torch.stack([(grad * wave).sum((0, 2, 3)) for wave in waves], 1)
        return by_angles * scale[:, None, None], by_coefficients, (by_angles * scores).sum((0, 2, 3))
