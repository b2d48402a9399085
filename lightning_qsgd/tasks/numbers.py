"""Metrics of predicted numbers.

Shapes: B batch, K targets.
"""

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection, R2Score


def number_metrics() -> MetricCollection:
    """``mse``, ``mae``, ``r2`` and ``skill`` of numbers; see :func:`update`."""
    metrics = {"mse": MeanSquaredError(), "mae": MeanAbsoluteError(), "r2": _R2(), "skill": Skill()}
    return MetricCollection(metrics, compute_groups=False)  # not all see the same numbers


def update(
    metrics: MetricCollection, predictions: Tensor, targets: Tensor, scale: Tensor, persistence: Tensor | None
) -> dict[str, Metric]:
    """Add a batch.

    Args:
        metrics: those of :func:`number_metrics`.
        predictions, targets: (B, K), standardized.
        scale: (K,), units of a target in a standardized unit.
        persistence: (B, K), standardized; None if there is none, so that there is no skill either.

    Returns:
        The metrics to log, by name.
    """
    used = {name: metrics[name] for name in ("mse", "mae", "r2")}
    predictions, targets = (values.to(scale.dtype) for values in (predictions, targets))
    for name in ("mse", "mae"):  # without the mean, which would cost digits
        _update(used[name], scale.dtype, predictions * scale, targets * scale)
    _update(used["r2"], scale.dtype, predictions, targets)
    if persistence is not None:
        used["skill"] = metrics["skill"]
        _update(used["skill"], scale.dtype, predictions, targets, persistence.to(scale.dtype))
    return used


def _update(metric: Metric, dtype: torch.dtype, *values: Tensor) -> None:
    if not metric.update_called:  # its state may have another precision, or be a tensor of an earlier inference mode
        metric.set_dtype(dtype).reset()
    metric.update(*values)


class Skill(Metric):
    """1 - MSE / MSE of persistence: 1 is perfect, 0 no better than the last observed value, negative worse.

    NaN if persistence makes no error. Updated with predictions, targets and persistence, each (B, K).
    """

    full_state_update = False
    higher_is_better = True
    error: Tensor
    persistent_error: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("error", "persistent_error"):
            self.add_state(name, default=torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor, persistence: Tensor) -> None:
        """Add a batch."""
        self.error += (predictions - targets).square().sum()
        self.persistent_error += (persistence - targets).square().sum()

    def compute(self) -> Tensor:
        """The skill so far."""
        ratio = self.error / self.persistent_error
        return torch.where(self.persistent_error > 0, 1 - ratio, torch.nan)


class _R2(R2Score):
    """The mean over targets of 1 - squared error / squared deviation from the mean.

    NaN if it is undefined: for one row, or a target whose true values are all equal. torchmetrics 1.9 returns 0 or 1
    then, and also if the sum of squared deviations is below 1e-4.
    """

    def compute(self) -> Tensor:
        around = self.sum_squared_error - self.sum_error * (self.sum_error / self.total)
        varies = around > 1e-12 * self.sum_squared_error  # not only by rounding
        return torch.where(varies, 1 - self.residual / around, torch.nan).mean()
