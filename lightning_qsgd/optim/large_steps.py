"""Warnings of a perturbation that is too large to train with."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.param_groups import acts

FACTOR = 10.0  # of Adam's step
FIRST, EVERY = 10, 50  # perturbed steps


class LargeSteps:
    """Warns once if |lambda * Q| exceeds Adam's step 10 times, and once if a step may go uphill.

    It compares the largest coordinates in the first 10 perturbed steps and then in each 50th: a look costs an
    accelerator a synchronisation.

    Attributes:
        looks: whether this step is compared.
    """

    def __init__(self) -> None:
        self.looks = False
        self._steps = 0
        self._large = self._uphill = False

    def next_step(self, groups: Sequence[Mapping[str, Any]], real: bool) -> None:
        """Begin a perturbed step; ``real``: whether its tensors hold values."""
        self.looks = real and not self._large and (self._steps < FIRST or self._steps % EVERY == 0)
        self._steps += 1
        if not self._uphill:
            for group in groups:
                self.look_at_options(group)

    def look_at_options(self, group: Mapping[str, Any]) -> None:
        """Warn if 1 + lambda * s, which multiplies the learning rate, can be negative."""
        if group["scale"] == "adam" and group["quantum_weight"] > 1 and acts(group) and not self._uphill:
            self._uphill = True
            weight = f"{group['quantum_weight']:g}"
            warnings.warn(
                f"quantum_weight {weight} with scale='adam' multiplies learning rates by 1 + {weight} * s, s in "
                "[-1, 1]: they may change by more than themselves, and where the factor is negative, steps go uphill. "
                "Use a quantum_weight of at most 1",
                stacklevel=5,
            )

    def __call__(self, group: Mapping[str, Any], change: Tensor, u: Tensor) -> None:
        """Compare a change of some weights with lr * u, Adam's step of them."""
        if self._large or not len(change):
            return
        largest, adam = torch.stack([change.abs().max().float(), u.abs().max().float()]).tolist()
        adam *= float(group["lr"])
        if largest > FACTOR * adam:
            self._large = True
            weight, ratio = group["quantum_weight"], f"{largest / adam:.3g}" if adam else "infinitely many"
            warnings.warn(
                f"The perturbation is {ratio} times as large as Adam's step: with scale='gradient', lambda * Q = "
                f"{weight:g} * s * g grows with the gradient g, as Adam's step does not, and training may diverge. "
                "Clip gradients, lower quantum_weight, or use scale='adam'",
                stacklevel=9,
            )
