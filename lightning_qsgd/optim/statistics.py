"""What a perturbation did in one step, in numbers; and warnings of one that is constant, or too large to train with."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.coordinates import Piece, chunks
from lightning_qsgd.optim.param_groups import acts, rate
from lightning_qsgd.optim.perturbation import Perturbation
from lightning_qsgd.optim.sharding import local, run_of, sum_over_ranks
from lightning_qsgd.optim.update import Lists, direction

_COLUMNS = ("touched", "s", "s_squared", "perturbation", "inside", "q_g", "q_squared", "g_squared", "effective", "adam")
_SAMPLE = 2**20  # values of s, for the histogram
FACTOR = 10.0  # of Adam's step: a larger perturbation is warned of
FIRST, EVERY = 10, 50  # perturbed steps that are looked at


class Tally:
    """Sums over the coordinates of each parameter, collected while a step is taken.

    Args:
        groups: all parameter groups, with the options of this step.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self._groups = [dict(group) for group in groups]
        self._group_of = [k for k, group in enumerate(groups) for _ in group["params"]]
        self._number_of = {p: i for i, p in enumerate(p for group in groups for p in group["params"])}
        self._sums = torch.zeros(len(self._group_of), len(_COLUMNS), dtype=torch.float64, device="cpu")
        self._sample: list[Tensor] = []

    def add(self, group: Mapping[str, Any], pieces: Sequence[Piece], s: Tensor, gradients: Tensor, u: Tensor) -> None:
        """Count touched coordinates: their s, gradient before the step, and Adam's direction u, all flat."""
        if (left := _SAMPLE - sum(map(len, self._sample))) > 0:
            self._sample.append(s[:left].float().cpu().clone())
        s, u = s.double(), u.to(s.device).double()
        g = gradients.to(s.device).double() * (-1 if group["maximize"] else 1)
        q = s * (u if group["scale"] == "adam" else g)
        factor = 1.0 if group["target"] == "gradient" else rate(group)
        perturbation, inside = factor * group["quantum_weight"] * q, float(group["lr"]) * u
        effective = ((s.abs() > 0.01) & (q != 0)).double()
        one = torch.ones_like(s)
        columns = torch.stack([one, s, s * s, perturbation**2, inside**2, q * g, q * q, g * g, effective]).cpu()
        sizes = torch.tensor([p.size for p in pieces], device="cpu")
        rows = torch.tensor([p.number for p in pieces], device="cpu").repeat_interleave(sizes)
        self._sums[:, :-1].index_add_(0, rows, columns.T)

    def add_adam(self, group: Mapping[str, Any], lists: Lists) -> None:
        """Count Adam's whole step of a group: touched coordinates and all others.

        Args:
            group: the parameter group.
            lists: its parameters with gradient, and their state after the step.
        """
        whole = [
            Piece(self._number_of[p], i, local(p), 0, local(p).numel())
            for i, p in enumerate(lists.params)
            if not p.is_complex()
        ]
        moments = lists._replace(params=[], grads=[])
        for pieces in chunks(whole, 1):
            step = float(group["lr"]) * direction(group, moments.cut(pieces)).double()
            for piece, part in zip(pieces, step.split([p.size for p in pieces]), strict=True):
                self._sums[piece.number, -1] += float(part @ part)

    def close(self) -> None:
        """Add what other ranks counted of sharded parameters; all ranks call it together."""
        self._sums = sum_over_ranks(self._sums, [run_of(p) for group in self._groups for p in group["params"]])

    def statistics(self, params: Iterable[Tensor] | None = None) -> dict[str, Tensor]:
        """What the perturbation did in the step.

        Args:
            params: some parameters; None (default): all.

        Returns:
            Scalars, float64 on the CPU:

            - norm_ratio: ||lambda * Q|| over the norm of Adam's step, over all coordinates; where a touched group has
              target="gradient", ||lambda * Q|| over the norm of the touched gradients (both);
            - norm_ratio_touched: the same, Adam's step taken over the touched coordinates only;
            - offset, spread: mean and standard deviation of s;
            - learning_rate_factor: 1 + lambda * offset, what the constant part of s does with scale="adam";
            - cosine: between Q and the gradient on the touched coordinates, in [-1, 1]; 0 where either vanishes;
            - touched: number of touched coordinates;
            - effective: how many of them have |s| > 0.01 and Q != 0;
            - quantum_weight: lambda of the first touched group; 0 where none is touched.

            With ``params`` None also ``s``: the values of s on this rank, flat, float32, at most 2**20 of them; once.

        Raises:
            ValueError: for a parameter that the optimizer did not have in that step.
        """
        chosen = list(range(len(self._group_of)))
        if params is not None:
            params = list(params)
            if any(p not in self._number_of for p in params):
                raise ValueError("Invalid params: some of them were not the optimizer's in the recorded step")
            chosen = [self._number_of[p] for p in params]
        rows = self._sums[chosen]
        total = dict(zip(_COLUMNS, rows.sum(0).tolist(), strict=True))
        groups = [self._groups[self._group_of[i]] for i, row in zip(chosen, rows, strict=True) if row[0] > 0]
        weight = groups[0]["quantum_weight"] if groups else 0.0
        to_gradient = any(group["target"] == "gradient" for group in groups)
        whole, part = (total["g_squared"],) * 2 if to_gradient else (total["adam"], total["inside"])
        count, norms = max(total["touched"], 1), total["q_squared"] * total["g_squared"]
        offset = total["s"] / count
        values = {
            "norm_ratio": math.sqrt(total["perturbation"] / whole) if whole else 0.0,
            "norm_ratio_touched": math.sqrt(total["perturbation"] / part) if part else 0.0,
            "offset": offset,
            "spread": math.sqrt(max(total["s_squared"] / count - offset**2, 0)),
            "learning_rate_factor": 1 + weight * offset,
            "cosine": total["q_g"] / math.sqrt(norms) if norms else 0.0,
            "touched": total["touched"],
            "effective": total["effective"],
            "quantum_weight": weight,
        }
        scalars = {name: torch.tensor(value, dtype=torch.float64, device="cpu") for name, value in values.items()}
        if params is not None:
            return scalars
        sample, self._sample = self._sample, []
        return scalars | {"s": torch.cat([*sample, torch.empty(0, device="cpu")])}


def constant_equivalent(s: Tensor, group: Mapping[str, Any]) -> str | None:
    """What classical change a nearly constant s amounts to; None unless |mean| exceeds 3 spreads (and 0.01).

    Args:
        s: (touched,).
        group: the parameter group, which decides what s multiplies.
    """
    if len(s) < 2:
        return None
    mean, spread = float(s.mean()), float(s.std(correction=0))
    if abs(mean) <= max(3 * spread, 0.01):
        return None
    lr, weight = float(group["lr"]), group["quantum_weight"]
    factor = 1 + weight * mean
    if group["target"] == "gradient":
        return f"gradients {factor:.3g} times as large, to which Adam is nearly invariant"
    if group["scale"] == "adam":
        return f"AdamW with lr {lr * factor:.3g} ({factor:.3g} times as large)"
    return f"a plain gradient step of rate {rate(group) * weight * mean:.3g} beside AdamW's"


def warn_if_constant(s: Tensor, group: Mapping[str, Any], perturbation: Perturbation) -> None:
    """Warn of an s that hardly varies: it is a learning rate, and no response to the weights."""
    circuit = getattr(perturbation, "reference", perturbation)
    aligned = "" if getattr(circuit, "own_ansatz", False) else "rotations='aligned' or "
    if (equivalent := constant_equivalent(s, group)) is not None:
        warnings.warn(
            f"The perturbation is nearly constant: s has mean {float(s.mean()):.3f} and spread "
            f"{float(s.std(correction=0)):.3f}. On the touched coordinates it acts like {equivalent}. "
            f"CircuitPerturbation's {aligned}center='zero' removes the constant part; "
            "ConstantTwin(...) is its classical twin.",
            stacklevel=9,
        )


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
