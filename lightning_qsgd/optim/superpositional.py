"""Superpositional Gradient Descent: AdamW with steps that are perturbed by a quantum circuit.

Paper: arXiv 2511.01918, "Superpositional Gradient Descent". "SGD" there is not stochastic, and this is not quantized,
gradient descent (the other "QSGD").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim.optimizer import ParamsT

from lightning_qsgd.optim.coordinates import gather, write
from lightning_qsgd.optim.displaced_gradients import DisplacedGradients
from lightning_qsgd.optim.displacement import MeasuredDisplacement
from lightning_qsgd.optim.perturbation import Perturbation, SinePerturbation
from lightning_qsgd.optim.statistics import constant_warning, perturbation_statistics
from lightning_qsgd.optim.update import (
    Touched,
    acts,
    after_adam,
    before_adam,
    participates,
    touched_coordinates,
    without_bias_correction,
)

Scope = Literal["first_of_tensor", "first_of_model", "all"]
Target = Literal["update", "gradient"]
Scale = Literal["gradient", "adam"]
Coupling = Literal["lr", "decoupled"]

#: The combinations of (target, scale, coupling) that mean something.
LEGAL_COMBINATIONS = (
    ("update", "gradient", "lr"),
    ("update", "gradient", "decoupled"),
    ("update", "adam", "lr"),
    ("gradient", "gradient", "lr"),
)
_STATE_KEY = "perturbation_state"


class SuperpositionalGradientDescent(DisplacedGradients, torch.optim.AdamW):
    r"""AdamW whose step gains the perturbation lambda * Q(theta, g).

    .. math::
        \theta_{t+1} = (1 - \alpha w)\,\theta_t - \alpha \left( \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}
        + \lambda\, Q(\theta_t, g_t) \right), \qquad Q_i = s_i(\pi\theta_t)\, g_i

    Paper: arXiv 2511.01918, Eq. 1 and 2. What the paper leaves open is an option: ``scope`` (which coordinates),
    ``coupling`` (whether alpha multiplies Q), ``bias_correction``.

    Args:
        params: parameters or parameter groups; a group may hold its own quantum_weight, target, scale, coupling and
            bias_correction. Sparse and complex ones are refused.
        lr: alpha, at least 0. Default: 1e-3.
        betas: decay of Adam's moments, in [0, 1). Default: (0.9, 0.999).
        eps: added to Adam's denominator, at least 0. Default: 1e-8.
        weight_decay: w, decoupled as in AdamW, at least 0. Default: 0 (torch.optim.AdamW: 0.01).
        quantum_weight: lambda, a number of at least 0, or a function of the step number (from 0). With 0 the step
            is torch.optim.AdamW's bit for bit. Default: 0.5 (the paper also uses 0.1).
        perturbation: where s comes from. None (default): :class:`SinePerturbation` of 4 qubits, that is Eq. 2 in
            closed form: no circuit runs. ``CircuitPerturbation()`` runs one.
        scope: the touched coordinates, in blocks of the perturbation's num_qubits: "first_of_tensor" (default; the
            first of each tensor, C order), "first_of_model" (of the first parameters in group order) or "all" (each
            tensor flattened, padded with angle 0). Parameters without gradient contribute nothing, nor do groups whose
            quantum_weight is the number 0.
        target: "update" (default; Eq. 1) or "gradient" (g + lambda * Q enters the moments: the paper's second arm; Adam
            is nearly invariant to it).
        scale: "gradient" (default; Q = s * g, Eq. 2) or "adam" (Q = s * u, u Adam's direction in this step: then
            lambda * s is a relative change of the learning rate, and effects are thousands of times larger).
        coupling: "lr" (default; alpha multiplies Q) or "decoupled" (lambda * lr / initial_lr does, initial_lr as
            torch's schedulers set it: with OneCycleLR that is max_lr / div_factor).
        bias_correction: Adam's correction of its moments (default: True; the paper's formula prints none). False needs
            all parameters of a group to have taken equally many steps.
        displacement: gradients are taken at weights that it displaces: in ``step(closure)``, or where the loss and its
            gradients are computed within ``displaced()``. None (default): at the weights themselves.
        foreach, maximize, amsgrad: as in torch.optim.AdamW.

    Legal (target, scale, coupling): see ``LEGAL_COMBINATIONS``. A step with lr = 0 perturbs nothing, asks no circuit
    and advances no counter. The perturbation's state travels in ``state_dict()["param_groups"][0]``.

    Attributes:
        record_statistics: set it to True, and each step leaves ``statistics``: see ``optim/statistics.py``. A step
            that does not record costs nothing. Default: False.
        statistics: those of the last recorded step, or None.

    Raises:
        ValueError: for an invalid value or combination.
        RuntimeError: for sparse or complex gradients, or bias_correction=False with parameters of different age;
            for ``step()`` with a displacement and gradients that are not of displaced weights.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        quantum_weight: float | Callable[[int], float] = 0.5,
        perturbation: Perturbation | None = None,
        scope: Scope = "first_of_tensor",
        target: Target = "update",
        scale: Scale = "gradient",
        coupling: Coupling = "lr",
        bias_correction: bool = True,
        displacement: MeasuredDisplacement | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        amsgrad: bool = False,
    ) -> None:
        if scope not in get_args(Scope):
            raise ValueError(f"Invalid scope: {scope!r}; it must be one of {', '.join(get_args(Scope))}")
        self.perturbation = SinePerturbation(num_qubits=4) if perturbation is None else perturbation
        if not isinstance(self.perturbation, Perturbation):
            raise ValueError(f"Invalid perturbation: {perturbation!r}; it must be a Perturbation")
        self.scope: Scope = scope
        self.displacement = displacement
        self._schedule = quantum_weight if callable(quantum_weight) else None
        self._step = 0  # optimizer steps with lr > 0 so far
        self._warned = False
        self.record_statistics = False
        self.statistics: dict[str, Tensor] | None = None
        self._options = {
            "quantum_weight": _checked_weight(self._schedule(0) if self._schedule else quantum_weight),
            "scheduled": self._schedule is not None,
            "target": target,
            "scale": scale,
            "coupling": coupling,
            "bias_correction": bias_correction,
        }
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize)
        self.defaults |= self._options

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; quantum options that it lacks are those of the constructor.

        Raises:
            ValueError: for an invalid value or combination.
        """
        group = self._options | param_group
        if "quantum_weight" in param_group:
            group |= {"scheduled": False, "quantum_weight": _checked_weight(param_group["quantum_weight"])}
        combination = (group["target"], group["scale"], group["coupling"])
        if combination not in LEGAL_COMBINATIONS:
            legal = "; ".join(", ".join(c) for c in LEGAL_COMBINATIONS)
            raise ValueError(f"Invalid (target, scale, coupling): {', '.join(map(str, combination))}; legal: {legal}")
        super().add_param_group(group)
        group = self.param_groups[-1]
        if group["coupling"] == "decoupled":
            group.setdefault("initial_lr", float(group["lr"]))
            if not group["initial_lr"] > 0:
                raise ValueError(f"Invalid lr: {group['initial_lr']}; coupling='decoupled' is relative to it")

    def prepare(self) -> str | None:
        """Do the one-time work now, such as fitting surrogates; otherwise the first step that needs it does."""
        needed = any(map(participates, self.param_groups))
        lines = (self.perturbation.prepare() if needed else None, self.displacement and self.displacement.prepare())
        return "\n".join(filter(None, lines)) or None

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor | float] | None = None) -> Any:
        """One step of all groups; ``closure`` recomputes the loss, as in torch.optim."""
        loss = self._evaluate(closure)
        for group in self.param_groups:
            if group["scheduled"] and self._schedule is not None:
                group["quantum_weight"] = _checked_weight(self._schedule(self._step))
        touched = touched_coordinates(self.param_groups, self.scope, self.perturbation.num_qubits)
        if not any(acts(t.group) for t in touched):
            self._adam_step()
        else:
            modulations = self._modulations(touched)
            gradients = [gather(t.grads, t.sizes) for t in touched] if self.record_statistics else []
            originals = [before_adam(t, s) for t, s in zip(touched, modulations, strict=True)]
            self._adam_step()
            if self.record_statistics:
                self.statistics = perturbation_statistics(
                    touched, modulations, gradients, self.param_groups, self.state
                )
            for t, s, original in zip(touched, modulations, originals, strict=True):
                after_adam(t, s, self.state)
                if original is not None:
                    write(t.grads, t.sizes, original)
        self._step += any(float(group["lr"]) != 0 for group in self.param_groups)
        return loss

    def _adam_step(self) -> None:
        """torch.optim.AdamW's own step, without the hooks that torch wraps around it: ours fires them."""
        step = torch.optim.AdamW.step
        while getattr(step, "hooked", False):
            step = step.__wrapped__  # type: ignore[attr-defined]
        with without_bias_correction(self.param_groups, self.state):
            step(self)

    # ---- the touched coordinates, in blocks

    def _modulations(self, touched: list[Touched]) -> list[Tensor]:
        """s of each group's coordinates, flat: one call of the perturbation for all of them."""
        n = self.perturbation.num_qubits
        params = [p for t in touched for p in t.params]
        sizes = [size for t in touched for size in t.sizes]
        padding = [-size % n for size in sizes]
        if self.scope == "first_of_model":  # tensors follow each other within the one block
            padding = [0] * (len(sizes) - 1) + [-sum(sizes) % n]
        theta = gather(params, sizes)
        theta = theta if theta.dtype == torch.float64 else theta.float()
        padded = any(padding)
        if padded:
            theta = torch.cat([pad(x, (0, more)) for x, more in zip(theta.split(sizes), padding, strict=True)])
        numbers = [number for t in touched for number in t.numbers]
        self.perturbation.layout = list(zip(numbers, sizes, padding, strict=True))
        angles = (theta * math.pi).view(-1, n)
        with torch.autocast(angles.device.type, enabled=False):
            s = self.perturbation(angles, step=self._step)
        if s.shape != angles.shape:
            raise ValueError(
                f"{type(self.perturbation).__name__} returned shape {tuple(s.shape)} for angles {tuple(angles.shape)}"
            )
        s = s.reshape(-1)
        if padded:
            s = torch.cat(s.split([length for run in zip(sizes, padding, strict=True) for length in run])[::2])
        if not self._warned:
            self._warn_if_constant(s, touched[0].group)
        parts = s.split([sum(t.sizes) for t in touched])
        return [part.to(t.params[0].device) for part, t in zip(parts, touched, strict=True)]

    def _warn_if_constant(self, s: Tensor, group: dict[str, Any]) -> None:
        """Once, at the first perturbed step: an s that hardly varies is a learning rate, not an answer."""
        self._warned = True
        if (warning := constant_warning(s, group)) is not None:
            warnings.warn(warning, stacklevel=5)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and the perturbation's state in the first group: sharded checkpoints lose any other place."""
        state = super().state_dict()
        own = {"step": self._step, "scope": self.scope, "identity": self.perturbation.identity()}
        state["param_groups"][0][_STATE_KEY] = own | self._displacement_state() | self.perturbation.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, or of a plain AdamW: the perturbation then starts anew.

        As in torch, the state's options win over the constructor's; a difference in this class's options is warned of.
        A schedule of quantum_weight is no state: it is the constructor's.

        Raises:
            ValueError: if the state belongs to another perturbation or scope.
        """
        first, *rest = state_dict["param_groups"]
        own = first.get(_STATE_KEY)
        groups = [{k: v for k, v in first.items() if k != _STATE_KEY}, *rest]
        if own is not None:
            for name, mine in (("identity", self.perturbation.identity()), ("scope", self.scope)):
                if own[name] != mine:
                    raise ValueError(
                        f"The state belongs to {own[name]}, this optimizer has {mine}; resume with the "
                        "same perturbation and scope, or start a new run"
                    )
            self._check_displacement(own)
        before = [{name: group[name] for name in self._options} for group in self.param_groups]
        super().load_state_dict({**state_dict, "param_groups": groups})
        for old, group in zip(before, self.param_groups, strict=True):
            if old["scheduled"] or group["scheduled"]:
                group |= {"scheduled": old["scheduled"], "quantum_weight": old["quantum_weight"]}
            if changed := [f"{k} {old[k]!r} by {group[k]!r}" for k in old if group[k] != old[k]]:
                warnings.warn(f"The loaded state replaces {', '.join(changed)}", stacklevel=2)
        if own is not None:
            self._step = int(own["step"])
            self.perturbation.load_state_dict(own)
            self._load_displacement_state(own)

    def __getstate__(self) -> dict[str, Any]:
        own = ("perturbation", "scope", "_schedule", "_step", "_warned", "_options", "record_statistics", "statistics")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in (*own, "displacement")}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self._options.items():
                group.setdefault(name, value)
            if group["coupling"] == "decoupled":
                group.setdefault("initial_lr", float(group["lr"]))


def _checked_weight(value: Any) -> float:
    if callable(value) or not float(value) >= 0:
        rule = "a group takes a number, the constructor a schedule" if callable(value) else "it must be at least 0"
        raise ValueError(f"Invalid quantum_weight: {value}; {rule}")
    return float(value)
