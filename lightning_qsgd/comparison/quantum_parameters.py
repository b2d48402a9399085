"""Live checks of a model's quantum parameters: are they trained at all?"""

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class QuantumParameters:
    """Watches the parameters of a model's circuits: registered with an optimizer, with gradients, moved.

    Elements are named ``head.circuit.weights[3]``. An element that no output of its circuit depends on (its derivative
    is 0 for random inputs and weights, exactly simulated: a trigonometric polynomial that vanishes at random points
    vanishes everywhere) is unobservable, and exempt.
    """

    def __init__(self) -> None:
        self._params: dict[str, nn.Parameter] = {}
        self._initial: dict[str, Tensor] = {}
        self._touched: dict[str, Tensor] = {}
        self._registered: set[int] = set()
        self._modules: dict[str, Any] = {}
        self.findings: dict[str, list[str]] = {}

    def begin(self, module: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Find the parameters; what was seen before a resumption stays."""
        self._modules = circuit_modules(module)
        trained = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
        for name, part in self._modules.items():
            for own, p in part.named_parameters():
                key = f"{name}.{own}" if name else own
                self._params[key] = p
                self._initial.setdefault(key, p.detach().clone())
                self._touched.setdefault(key, torch.zeros_like(p, dtype=torch.bool))
        self._registered = {id(p) for p in self._params.values() if id(p) in trained}

    def look(self) -> None:
        """Note which elements have a gradient."""
        for name, p in self._params.items():
            if p.grad is not None:
                self._touched[name] |= p.grad != 0

    def finish(self) -> None:
        """Say what was found, as names of elements (of whole parameters, where all of their elements are meant)."""
        unobservable = {name: mask for name, mask in self._unobservable().items() if mask.any()}
        fixed = {name for name, p in self._params.items() if not p.requires_grad}
        found: dict[str, list[str]] = {"unregistered": [], "without_gradient": [], "unmoved": [], "unobservable": []}
        for name, p in self._params.items():
            if name in fixed:
                continue
            hidden = unobservable.get(name, torch.zeros_like(p, dtype=torch.bool))
            if id(p) not in self._registered:
                found["unregistered"].append(name)
            found["without_gradient"] += _elements(name, ~self._touched[name] & ~hidden)
            found["unmoved"] += _elements(name, (p.detach() == self._initial[name]) & ~hidden)
            found["unobservable"] += _elements(name, hidden)
        self.findings = found

    def summary(self) -> dict[str, Any]:
        """Number of tensors, and the findings; empty without circuits."""
        return {"quantum_parameters": len(self._params)} | self.findings if self._params else {}

    def _unobservable(self) -> dict[str, Tensor]:
        found = {}
        for name, part in self._modules.items():
            weights = getattr(part, "weights", None)
            if isinstance(weights, Tensor) and weights.numel() == part.ansatz.num_weights > 0:
                found[f"{name}.weights" if name else "weights"] = unobservable_weights(part.ansatz).view_as(weights)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Initial values, and which elements have had a gradient."""
        return {"initial": self._initial, "touched": self._touched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._initial, self._touched = state["initial"], state["touched"]


def circuit_modules(module: nn.Module) -> dict[str, Any]:
    """Modules with a circuit, by name; none where qiskit was never needed."""
    if "lightning_qsgd.quantum" not in sys.modules:
        return {}
    from lightning_qsgd.quantum.layer import CircuitModule

    return {name: part for name, part in module.named_modules() if isinstance(part, CircuitModule)}


def unobservable_weights(ansatz: Any, points: int = 8) -> Tensor:
    """Which weights of a circuit no outcome probability depends on.

    Args:
        ansatz: an :class:`lightning_qsgd.quantum.Ansatz` with weights.
        points: random inputs and weights to differentiate at, at least 1. Default: 8.

    Returns:
        (weights,) bool.
    """
    from lightning_qsgd.quantum import CircuitSimulator

    generator = torch.Generator().manual_seed(0)
    simulator = CircuitSimulator(ansatz)
    largest = torch.zeros(ansatz.num_weights, dtype=torch.float64)
    for _ in range(points):
        inputs = 6.3 * torch.rand(1, ansatz.num_inputs, generator=generator, dtype=torch.float64)
        weights = 6.3 * torch.rand(ansatz.num_weights, generator=generator, dtype=torch.float64)
        derivative: Any = torch.autograd.functional.jacobian(lambda w, x=inputs: simulator(x, w)[0], weights)
        largest = torch.maximum(largest, derivative.abs().amax(0))
    return largest < 1e-12


def _elements(name: str, mask: Tensor) -> list[str]:
    if not mask.any():
        return []
    if mask.all():
        return [name]
    return [f"{name}[{', '.join(map(str, index))}]" for index in mask.nonzero().tolist()]
