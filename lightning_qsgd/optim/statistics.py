"""What the perturbation did in one step, and warnings about a perturbation that is constant or too large.

To add a statistic, add a :class:`Statistic` to ``STATISTICS``: the optimizer's ``statistics``, the PerturbationMonitor
and the charts in TensorBoard follow that table. Describe it in docs/tensorboard.md, which the tests compare with it.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_qsgd.optim.coordinates import Piece, chunks, local, run_of
from lightning_qsgd.optim.param_groups import acts, rate
from lightning_qsgd.optim.perturbation import Perturbation
from lightning_qsgd.optim.update import Lists, direction

_SAMPLE = 2**20  # values of s kept for the histogram
FACTOR = 10.0  # a perturbation larger than this multiple of Adam's step is warned about
FIRST, EVERY = 10, 50  # perturbed steps that are checked


class Sums(NamedTuple):
    """Sums over the touched coordinates of one step; ``adam`` is over all coordinates."""

    touched: Any  # 1 for each
    s: Any
    s_squared: Any
    change_squared: Any  # change: what lambda * Q adds to the weight, or with target="gradient" to the gradient
    adam_touched: Any  # the square of Adam's step
    q_g: Any
    q_squared: Any
    g_squared: Any
    effective: Any  # 1 for each with |s| > 0.01 and Q != 0
    adam: Any  # the square of Adam's step

    @property
    def mean(self) -> float:
        """Mean of s."""
        return self.s / max(self.touched, 1)

    @property
    def cosine(self) -> float:
        """Cosine between Q and g."""
        norms = self.q_squared * self.g_squared
        return self.q_g / math.sqrt(norms) if norms else 0.0


class Statistic(NamedTuple):
    """One number about a perturbed step.

    Attributes:
        name: its key in the optimizer's ``statistics``; the monitor logs it as ``quantum/<name>``.
        meaning: its definition.
        value: computes it from the sums and from lambda.
        chart: title of its chart in TensorBoard; statistics with the same title share a chart. None: it has none.
        per_part: whether the monitor also logs it for each group or layer.
    """

    name: str
    meaning: str
    value: Callable[[Sums, float], float]
    chart: str | None = None
    per_part: bool = False


def _ratio(change_squared: float, step_squared: float) -> float:
    return math.sqrt(change_squared / step_squared) if step_squared else 0.0


#: The statistics of a step, in the order of their charts.
STATISTICS = (
    Statistic(
        "norm_ratio_touched",
        "norm of λQ over the norm of Adam's step, both over the touched coordinates",
        lambda sums, weight: _ratio(sums.change_squared, sums.adam_touched),
        "Size beside Adam's step (touched coordinates)",
    ),
    Statistic(
        "norm_ratio",
        "norm of λQ over the norm of Adam's step over all coordinates; if a touched group has `target: gradient`, over "
        "the norm of the touched gradients, as in `norm_ratio_touched`",
        lambda sums, weight: _ratio(sums.change_squared, sums.adam),
        "Size beside Adam's step (all coordinates)",
        per_part=True,
    ),
    Statistic(
        "cosine",
        "cosine between Q and the gradient on the touched coordinates, in [-1, 1]; 0 if either vanishes",
        lambda sums, weight: sums.cosine,
        "Cosine with the gradient",
        per_part=True,
    ),
    Statistic(
        "offset",
        "mean of s over the touched coordinates",
        lambda sums, weight: sums.mean,
        "Modulation: mean and spread",
        per_part=True,
    ),
    Statistic(
        "spread",
        "standard deviation of s over the touched coordinates",
        lambda sums, weight: math.sqrt(max(sums.s_squared / max(sums.touched, 1) - sums.mean**2, 0)),
        "Modulation: mean and spread",
        per_part=True,
    ),
    Statistic(
        "touched", "number of touched coordinates", lambda sums, weight: sums.touched, "Coordinates: touched, effective"
    ),
    Statistic(
        "effective",
        "number of touched coordinates with abs(s) > 0.01 and Q other than 0",
        lambda sums, weight: sums.effective,
        "Coordinates: touched, effective",
    ),
    Statistic(
        "quantum_weight",
        "λ of the first touched group; 0 if no coordinate is touched",
        lambda sums, weight: weight,
        "Schedule of the quantum weight",
    ),
    Statistic(
        "learning_rate_factor",
        "1 + λ · offset: with `scale: adam`, the factor by which the constant part of s changes the learning rate",
        lambda sums, weight: 1 + weight * sums.mean,
    ),
)


class Tally:
    """Sums over the coordinates of each parameter, collected while a step is taken.

    Args:
        groups: all parameter groups, with the options of this step.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self._groups = [dict(group) for group in groups]
        self._group_of = [k for k, group in enumerate(groups) for _ in group["params"]]
        self._number_of = {p: i for i, p in enumerate(p for group in groups for p in group["params"])}
        self._sums = torch.zeros(len(self._group_of), len(Sums._fields), dtype=torch.float64, device="cpu")
        self._sample: list[Tensor] = []

    def add(self, group: Mapping[str, Any], pieces: Sequence[Piece], s: Tensor, gradients: Tensor, u: Tensor) -> None:
        """Count touched coordinates: their s, their gradient before the step and Adam's direction u, all flat."""
        if (left := _SAMPLE - sum(map(len, self._sample))) > 0:
            self._sample.append(s[:left].float().cpu().clone())
        s, u = s.double(), u.to(s.device).double()
        g = gradients.to(s.device).double() * (-1 if group["maximize"] else 1)
        q = s * (u if group["scale"] == "adam" else g)
        factor = 1.0 if group["target"] == "gradient" else rate(group)
        columns = Sums(
            touched=torch.ones_like(s),
            s=s,
            s_squared=s * s,
            change_squared=(factor * group["quantum_weight"] * q) ** 2,
            adam_touched=(float(group["lr"]) * u) ** 2,
            q_g=q * g,
            q_squared=q * q,
            g_squared=g * g,
            effective=((s.abs() > 0.01) & (q != 0)).double(),
            adam=torch.zeros_like(s),  # add_adam adds it
        )
        sizes = torch.tensor([p.size for p in pieces], device="cpu")
        rows = torch.tensor([p.number for p in pieces], device="cpu").repeat_interleave(sizes)
        self._sums.index_add_(0, rows, torch.stack(columns).cpu().T)

    def add_adam(self, group: Mapping[str, Any], lists: Lists) -> None:
        """Count Adam's whole step of a group, on touched and other coordinates.

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
        owners = [run_of(p).group for group in self._groups for p in group["params"]]
        for owner in dict.fromkeys(owners):  # in the same order on all ranks
            if owner is not None:
                rows = [i for i, other in enumerate(owners) if other == owner]
                part = self._sums[rows].contiguous()
                torch.distributed.all_reduce(part, group=owner)
                self._sums[rows] = part

    def statistics(self, params: Iterable[Tensor] | None = None) -> dict[str, Tensor]:
        """The statistics of the step.

        Args:
            params: some parameters. None (default): all of them.

        Returns:
            A float64 scalar on the CPU for each name in ``STATISTICS``. Without ``params`` also ``s``, the values of s
            on this rank: flat, float32, at most 2**20 of them, once.

        Raises:
            ValueError: if the optimizer did not have one of the parameters in that step.
        """
        chosen = list(range(len(self._group_of)))
        if params is not None:
            params = list(params)
            if any(p not in self._number_of for p in params):
                raise ValueError("Invalid params: some of them were not the optimizer's in the recorded step")
            chosen = [self._number_of[p] for p in params]
        rows = self._sums[chosen]
        sums = Sums(*rows.sum(0).tolist())
        groups = [self._groups[self._group_of[i]] for i, row in zip(chosen, rows, strict=True) if row[0] > 0]
        if any(group["target"] == "gradient" for group in groups):
            sums = sums._replace(adam=sums.g_squared, adam_touched=sums.g_squared)
        weight = groups[0]["quantum_weight"] if groups else 0.0
        scalars = {
            one.name: torch.tensor(one.value(sums, weight), dtype=torch.float64, device="cpu") for one in STATISTICS
        }
        if params is not None:
            return scalars
        sample, self._sample = self._sample, []
        return scalars | {"s": torch.cat([*sample, torch.empty(0, device="cpu")])}


def warn_if_constant(s: Tensor, group: Mapping[str, Any], perturbation: Perturbation) -> None:
    """Warn if |mean of s| exceeds 3 standard deviations (and 0.01): then s is a learning rate, not a response.

    Args:
        s: (touched,).
        group: the parameter group, which decides what s multiplies.
        perturbation: the origin of s.
    """
    mean, spread = (float(s.mean()), float(s.std(correction=0))) if len(s) > 1 else (0.0, 0.0)
    if abs(mean) <= max(3 * spread, 0.01):
        return
    lr, weight = float(group["lr"]), group["quantum_weight"]
    factor = 1 + weight * mean
    if group["target"] == "gradient":
        equivalent = f"gradients {factor:.3g} times as large, to which Adam is nearly invariant"
    elif group["scale"] == "adam":
        equivalent = f"AdamW with lr {lr * factor:.3g} ({factor:.3g} times as large)"
    else:
        equivalent = f"a plain gradient step of rate {rate(group) * weight * mean:.3g} in addition to AdamW's"
    circuit = getattr(perturbation, "reference", perturbation)
    aligned = "" if getattr(circuit, "own_ansatz", False) else "rotations='aligned' or "
    warnings.warn(
        f"The perturbation is nearly constant: s has mean {mean:.3f} and spread {spread:.3f}. On the touched "
        f"coordinates it acts like {equivalent}. CircuitPerturbation's {aligned}center='zero' removes the constant "
        "part; ConstantTwin(...) is its classical twin.",
        stacklevel=9,
    )


class LargeSteps:
    """Warn once if |lambda * Q| is over 10 times as large as Adam's step, and once if a step may go uphill.

    The largest coordinates are compared in the first 10 perturbed steps and in every 50th one after them, because each
    comparison synchronizes with the accelerator.

    Attributes:
        looks: whether this step is compared.
    """

    def __init__(self) -> None:
        self.looks = False
        self._steps = 0
        self._large = self._uphill = False

    def next_step(self, groups: Sequence[Mapping[str, Any]], real: bool) -> None:
        """Begin a perturbed step; ``real`` says whether its tensors hold values."""
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
                f"quantum_weight {weight} with scale='adam' multiplies learning rates by 1 + {weight} * s, with s "
                "in [-1, 1]. This factor can be negative, and then steps go uphill. Use a quantum_weight of at most 1",
                stacklevel=5,
            )

    def __call__(self, group: Mapping[str, Any], change: Tensor, u: Tensor) -> None:
        """Compare the change that Q makes to some weights with Adam's step lr * u."""
        if self._large or not len(change):
            return
        largest, adam = torch.stack([change.abs().max().float(), u.abs().max().float()]).tolist()
        adam *= float(group["lr"])
        if largest > FACTOR * adam:
            self._large = True
            weight, ratio = group["quantum_weight"], f"{largest / adam:.3g}" if adam else "infinitely many"
            warnings.warn(
                f"The perturbation is {ratio} times as large as Adam's step: with scale='gradient', lambda * Q = "
                f"{weight:g} * s * g grows with the gradient g, unlike Adam's step, and training may diverge. "
                "Clip gradients, lower quantum_weight, or use scale='adam'",
                stacklevel=9,
            )
