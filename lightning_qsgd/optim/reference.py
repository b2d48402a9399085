"""The update of SuperpositionalGradientDescent in plain loops, in the order of the README's equation.

It is slow and uses neither AdamW's code nor state dicts. Read it to understand the update; tests/optim compare the two.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.perturbation import Perturbation, SinePerturbation


class ReferenceSuperpositionalGradientDescent(torch.optim.Optimizer):
    """Reference; arguments as for ``SuperpositionalGradientDescent``, without schedules and foreach."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        quantum_weight: float = 0.5,
        perturbation: Perturbation | None = None,
        scope: str = "first_of_tensor",
        target: str = "update",
        scale: str = "gradient",
        coupling: str = "lr",
        bias_correction: bool = True,
        maximize: bool = False,
        amsgrad: bool = False,
    ) -> None:
        options = {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")}
        self.perturbation = options.pop("perturbation") or SinePerturbation()
        super().__init__(params, options | {"initial_lr": lr})
        self._step = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        numbered = enumerate((g, p) for g in self.param_groups for p in g["params"])
        pairs = [(i, g, p) for i, (g, p) in numbered if p.grad is not None]
        s = self._s([(i, p) for i, g, p in pairs if g["quantum_weight"] != 0])
        for i, group, p in pairs:
            self._update(group, p, s.get(i, torch.zeros_like(p)))
        self._step += 1

    def _s(self, numbered: list[tuple[int, Tensor]]) -> dict[int, Tensor]:
        """s for each coordinate of each parameter by its number; 0 for untouched coordinates."""
        n, scope = self.perturbation.num_qubits, self.param_groups[0]["scope"]
        params = dict(numbered)
        slots: list[tuple[int, int] | None] = []  # (parameter, coordinate), None: padding
        layout: list[tuple[int, int, int]] = []
        for i, p in numbered:
            size = p.numel() if scope == "all" else min(n, p.numel())
            if scope == "first_of_model":
                size = min(size, n - len(slots))
            padding = -size % n if scope != "first_of_model" else 0
            slots += [(i, j) for j in range(size)] + [None] * padding
            if size:
                layout.append((i, size, padding))
        result = {i: torch.zeros_like(p).flatten() for i, p in numbered}
        if not slots:
            return {}
        if scope == "first_of_model":
            layout[-1] = (*layout[-1][:2], -len(slots) % n)
            slots += [None] * (-len(slots) % n)
        theta = [0.0 if slot is None else float(params[slot[0]].flatten()[slot[1]]) for slot in slots]
        self.perturbation.layout = layout
        angles = math.pi * torch.tensor(theta, dtype=numbered[0][1].dtype).view(-1, n)
        values = self.perturbation(angles, step=self._step).flatten()
        for slot, value in zip(slots, values, strict=True):
            if slot is not None:
                result[slot[0]][slot[1]] = value
        return {i: result[i].view(p.shape) for i, p in numbered}

    def _update(self, group: dict[str, Any], theta: Tensor, s: Tensor) -> None:
        assert theta.grad is not None
        lr, lam, (beta1, beta2) = group["lr"], group["quantum_weight"], group["betas"]
        g = -theta.grad if group["maximize"] else theta.grad
        state = self.state[theta]
        if not state:
            state.update(t=0, m=torch.zeros_like(g), v=torch.zeros_like(g), v_max=torch.zeros_like(g))
        if group["target"] == "gradient":
            g = g + lam * s * g
        state["t"] += 1
        state["m"] = beta1 * state["m"] + (1 - beta1) * g
        state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
        state["v_max"] = torch.maximum(state["v_max"], state["v"])
        m, v = state["m"], state["v_max"] if group["amsgrad"] else state["v"]
        if group["bias_correction"]:
            m, v = m / (1 - beta1 ** state["t"]), v / (1 - beta2 ** state["t"])
        u = m / (v.sqrt() + group["eps"])
        q = s * g if group["scale"] == "gradient" else s * u
        if group["target"] == "gradient":
            q = torch.zeros_like(u)  # the moments contain it
        rate = lr if group["coupling"] == "lr" else lr / group["initial_lr"]
        theta.copy_((1 - lr * group["weight_decay"]) * theta - lr * u - rate * lam * q)
