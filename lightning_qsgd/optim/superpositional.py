"""Superpositional Gradient Descent: AdamW with steps that are perturbed by a quantum circuit.

Paper: arXiv 2511.01918, "Superpositional Gradient Descent". "SGD" there is not stochastic, and this is not quantized,
gradient descent (the other "QSGD").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim.optimizer import ParamsT

from lightning_qsgd.optim.coordinates import add, gather, write
from lightning_qsgd.optim.perturbation import Perturbation, SinePerturbation

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


class SuperpositionalGradientDescent(torch.optim.AdamW):
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
            tensor flattened, padded with angle 0). Parameters without gradient contribute nothing.
        target: "update" (default; Eq. 1) or "gradient" (g + lambda * Q enters the moments: the paper's second arm; Adam
            is nearly invariant to it).
        scale: "gradient" (default; Q = s * g, Eq. 2) or "adam" (Q = s * u, u Adam's direction in this step: then
            lambda * s is a relative change of the learning rate, and effects are thousands of times larger).
        coupling: "lr" (default; alpha multiplies Q) or "decoupled" (lambda * lr / initial_lr multiplies it).
        bias_correction: Adam's correction of its moments (default: True; the paper's formula prints none). False needs
            all parameters of a group to have taken equally many steps.
        foreach, maximize, amsgrad: as in torch.optim.AdamW.

    Legal (target, scale, coupling): see ``LEGAL_COMBINATIONS``. A step with lr = 0 perturbs nothing, asks no circuit
    and advances no counter. The perturbation's state travels in ``state_dict()["param_groups"][0]``.

    Raises:
        ValueError: for an invalid value or combination.
        RuntimeError: for sparse or complex gradients, or bias_correction=False with parameters of different age.
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
        self._schedule = quantum_weight if callable(quantum_weight) else None
        self._step = 0  # optimizer steps with lr > 0 so far
        self._warned = False
        self._options = {
            "quantum_weight": float(self._schedule(0) if self._schedule else quantum_weight),  # type: ignore[arg-type]
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
        if "quantum_weight" in param_group:
            param_group.setdefault("scheduled", False)
        group = self._options | param_group
        if not group["quantum_weight"] >= 0:
            raise ValueError(f"Invalid quantum_weight: {group['quantum_weight']}; it must be at least 0")
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
        """Do the perturbation's one-time work (fit its surrogate) now; otherwise the first step does it."""
        return self.perturbation.prepare()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor | float] | None = None) -> Any:
        """One step of all groups; ``closure`` recomputes the loss, as in torch.optim."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [group for group in self.param_groups if float(group["lr"]) != 0]
        for group in active:
            if group["scheduled"]:
                assert self._schedule is not None
                group["quantum_weight"] = float(self._schedule(self._step))
        touched = self._touched([group for group in active if group["quantum_weight"] != 0])
        if not touched:
            self._adam_step()
        else:
            modulations = self._modulations(touched)
            originals = [_before(t, s) for t, s in zip(touched, modulations, strict=True)]
            self._adam_step()
            for t, s, gradients in zip(touched, modulations, originals, strict=True):
                _after(t, s, self.state)
                if gradients is not None:
                    write(t.grads, t.sizes, gradients)
        self._step += bool(active)
        return loss

    def _adam_step(self) -> None:
        """torch.optim.AdamW's own step, without the hooks that torch wraps around it: ours fires them."""
        step = torch.optim.AdamW.step
        while getattr(step, "hooked", False):
            step = step.__wrapped__  # type: ignore[attr-defined]
        with self._without_bias_correction():
            step(self)

    # ---- the touched coordinates, in blocks

    def _touched(self, groups: list[dict[str, Any]]) -> list[_Touched]:
        n, left = self.perturbation.num_qubits, self.perturbation.num_qubits
        touched = []
        for group in groups:
            params, grads, sizes = [], [], []
            for p, gradient in _with_gradient(group):
                if gradient.is_sparse or p.is_complex():
                    kind = "sparse" if gradient.is_sparse else "complex"
                    raise RuntimeError(
                        f"SuperpositionalGradientDescent does not support {kind} gradients (tensor of shape "
                        f"{tuple(p.shape)}); give that parameter to another optimizer"
                    )
                size = p.numel() if self.scope == "all" else min(p.numel(), n)
                if self.scope == "first_of_model":
                    size = min(size, left)
                    left -= size
                if size:
                    params.append(p)
                    grads.append(gradient)
                    sizes.append(size)
            if params:
                touched.append(_Touched(group, params, grads, sizes))
        return touched

    def _modulations(self, touched: list[_Touched]) -> list[Tensor]:
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
        self.perturbation.layout = list(zip(sizes, padding, strict=True))
        angles = (theta * math.pi).view(-1, n)
        s = self.perturbation(angles, step=self._step)
        if s.shape != angles.shape:
            raise ValueError(
                f"{type(self.perturbation).__name__} returned shape {tuple(s.shape)} for angles {tuple(angles.shape)}"
            )
        s = s.reshape(-1)
        if padded:
            s = torch.cat(s.split([length for run in self.perturbation.layout for length in run])[::2])
        if not self._warned:
            self._warn_if_constant(s, touched[0].group)
        return [s] if len(touched) == 1 else list(s.split([sum(t.sizes) for t in touched]))

    @contextmanager
    def _without_bias_correction(self) -> Iterator[None]:
        """Rescale lr, eps and weight_decay so that torch's corrected step is the uncorrected one."""
        originals = []
        for group in self.param_groups:
            if group["bias_correction"]:
                continue
            ages = {float(self.state[p]["step"]) if p in self.state else 0.0 for p, _ in _with_gradient(group)}
            if len(ages) > 1:
                raise RuntimeError(
                    f"bias_correction=False needs parameters that have taken equally many steps; this group has "
                    f"{sorted(ages)}. Put parameters without gradient in some steps into a group of their own"
                )
            if ages:
                t, (beta1, beta2) = ages.pop() + 1, group["betas"]
                c1, c2 = 1 - beta1**t, math.sqrt(1 - beta2**t)
                originals.append((group, group["lr"], group["eps"], group["weight_decay"]))
                group["lr"] = group["lr"] * (c1 / c2)
                group["eps"] = group["eps"] / c2
                group["weight_decay"] = group["weight_decay"] * (c2 / c1)
        try:
            yield
        finally:
            for group, lr, eps, weight_decay in originals:
                group["lr"], group["eps"], group["weight_decay"] = lr, eps, weight_decay

    def _warn_if_constant(self, s: Tensor, group: dict[str, Any]) -> None:
        """Once, at the first perturbed step: an s that hardly varies is a learning rate, not an answer."""
        self._warned = True
        mean, spread = float(s.mean()), float(s.std(correction=0))
        if len(s) < 2 or abs(mean) <= max(3 * spread, 0.01):
            return
        lr, weight = float(group["lr"]), group["quantum_weight"]
        factor = 1 + weight * mean
        if group["target"] == "gradient":
            equivalent = f"gradients {factor:.3g} times as large, to which Adam is nearly invariant"
        elif group["scale"] == "adam":
            equivalent = f"AdamW with lr {lr * factor:.3g} ({factor:.3g} times as large)"
        else:
            rate = lr if group["coupling"] == "lr" else lr / group["initial_lr"]
            equivalent = f"a plain gradient step of rate {rate * weight * mean:.3g} beside AdamW's"
        warnings.warn(
            f"The perturbation is nearly constant: s has mean {mean:.3f} and spread {spread:.3f}. On the touched "
            f"coordinates it acts like {equivalent}. CircuitPerturbation's rotations='aligned' or center='zero' remove "
            "the constant part; ControlPerturbation('constant', ...) is its classical twin.",
            stacklevel=5,
        )

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and the perturbation's state in the first group: sharded checkpoints lose any other place."""
        state = super().state_dict()
        state["param_groups"][0][_STATE_KEY] = {"step": self._step, **self.perturbation.state_dict()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, or of a plain AdamW: the perturbation then starts anew."""
        first, *rest = state_dict["param_groups"]
        own = first.get(_STATE_KEY)
        groups = [{k: v for k, v in first.items() if k != _STATE_KEY}, *rest]
        super().load_state_dict({**state_dict, "param_groups": groups})
        if own is not None:
            self._step = int(own["step"])
            self.perturbation.load_state_dict({k: v for k, v in own.items() if k != "step"})

    def __getstate__(self) -> dict[str, Any]:
        own = ("perturbation", "scope", "_schedule", "_step", "_warned", "_options")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self._options.items():
                group.setdefault(name, value)


class _Touched(NamedTuple):
    """The touched coordinates of one group: the first ``sizes[i]`` of each parameter, in C order."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    sizes: list[int]


def _before(t: _Touched, s: Tensor) -> Tensor | None:
    """Q = s * g: into the gradient, or into the weights, which Adam's moments do not read.

    AdamW multiplies the weights by 1 - lr * weight_decay afterwards, so what is subtracted now is divided by it.
    Returns what changed gradients held before.
    """
    group = t.group
    if group["scale"] != "gradient":
        return None
    gradients = gather(t.grads, t.sizes)
    if group["target"] == "gradient":
        write(t.grads, t.sizes, gradients * (1 + group["quantum_weight"] * s))
        return gradients
    lr, sign = float(group["lr"]), 1 if group["maximize"] else -1
    rate = lr if group["coupling"] == "lr" else lr / group["initial_lr"]
    decay = 1 - lr * group["weight_decay"]
    if decay == 0:
        raise ValueError(f"Invalid weight_decay: {group['weight_decay']}; with lr {lr} it erases the weights")
    add(t.params, t.sizes, s * gradients * (sign * rate * group["quantum_weight"] / decay))
    return None


def _after(t: _Touched, s: Tensor, state: dict[Tensor, dict[str, Tensor]]) -> None:
    """Q = s * u, once Adam's moments are this step's."""
    group = t.group
    if group["scale"] != "adam":
        return
    states = [state[p] for p in t.params]
    m = gather([x["exp_avg"] for x in states], t.sizes).to(s.dtype)
    v = gather([x["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"] for x in states], t.sizes).to(s.dtype)
    if group["bias_correction"]:
        steps = torch.tensor([float(x["step"]) for x in states], dtype=torch.float64)
        beta1, beta2 = group["betas"]
        repeats = torch.tensor(t.sizes)
        m = m / (1 - beta1**steps).repeat_interleave(repeats).to(m)
        v = v / (1 - beta2**steps).repeat_interleave(repeats).to(v)
    direction = m / (v.sqrt() + group["eps"])
    add(t.params, t.sizes, s * direction * (-float(group["lr"]) * group["quantum_weight"]))


def _with_gradient(group: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    return [(p, p.grad) for p in group["params"] if p.grad is not None]
