"""How much of a function of several angles is constant, a sum of functions of one angle, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_qsgd.quantum.fourier import basis


class PowerSplit(NamedTuple):
    """Shares of each output's mean square, (O,) float64; they add up to 1 (or are all 0 where the output is 0).

    ``constant``: its squared mean. ``single``: what a sum of functions of one angle each adds. ``multi``: the rest,
    which depends on several angles together. ``total`` is the mean square itself.

    ``multi`` does not measure entanglement: the joint outcomes of two qubits that never meet, Ry(a) and Ry(b), have
    1/9 of their power in it.
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
    """Split by projection under the distribution that the samples come from; the angles may depend on each other.

    Args:
        values: (N, O): the function at the samples.
        samples: (N, n) angles, radians.
        sizes: terms of the series in each angle, 1 + 2 * degree.

    Raises:
        ValueError: if N is below 10 times the number of terms, 1 + the sum of (size - 1).

    The fit takes chance agreement for single-angle power: about multi * terms / N. Take N of 100 terms or more, or a
    complete grid, for shares to 1 %.
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
    # Angles that hardly move make columns that are nearly dependent: gelsd drops what is not there.
    fitted = design @ torch.linalg.lstsq(design, centred, rcond=1e-12, driver="gelsd").solution
    return _shares(mean.square(), fitted.square().mean(0), values.square().mean(0))


def split_uniform(coefficients: Tensor) -> PowerSplit:
    """Split under independent, uniform angles, exactly (Parseval).

    Args:
        coefficients: (K_1, ..., K_n, O), in the basis of :mod:`lightning_qsgd.quantum.fourier`.
    """
    sizes = coefficients.shape[:-1]
    grids = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    waves = torch.stack([grid > 0 for grid in grids]).sum(0)  # angles that a term depends on
    power = coefficients.double().square() * 0.5 ** waves.unsqueeze(-1)
    constant, single = (power[waves == count].sum(0) for count in (0, 1))
    return _shares(constant, single, power.flatten(0, -2).sum(0))
