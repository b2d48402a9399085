"""Surrogates of observables that each depend on few inputs, from a smaller grid.

An expectation depends only on the inputs in its past light cone: those of gates from which a chain of gates leads to
its qubits. Inputs that share no cone can vary together on the grid. Each cone still sees its whole grid, often several
times, and the repeats are averaged. This holds for any noise that acts only on the qubits of its gate.

Example: 12 qubits without entanglement at depth 2 need 5 circuits instead of 5**12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lightning_qsgd.quantum.basis import IGNORED
from lightning_qsgd.quantum.fourier import PowerSplit, split_samples
from lightning_qsgd.quantum.observables import expectation_matrix, z_string
from lightning_qsgd.quantum.surrogate import FourierSurrogate, check_grid, grid_points, grid_sizes, run_in_chunks

if TYPE_CHECKING:
    from lightning_qsgd.quantum.circuits import Ansatz
    from lightning_qsgd.quantum.network import QuantumNetwork


def light_cones(ansatz: Ansatz, observables: Sequence[str]) -> list[tuple[int, ...]]:
    """The inputs that the expectation of each observable can depend on, in ascending order."""
    depends, cones = ansatz.normal_form.angles.depends[:, : ansatz.num_inputs], []
    for name in observables:
        qubits, inputs = set(z_string(name, ansatz.num_qubits)), set()
        for gate in reversed(ansatz.normal_form.gates):
            if gate.name not in IGNORED and qubits.intersection(gate.qubits):
                qubits.update(gate.qubits)
                if gate.angle is not None and gate.angle.source >= 0:
                    inputs.update(np.flatnonzero(depends[gate.angle.source]).tolist())
        cones.append(tuple(sorted(inputs)) or (0,))  # a constant is a series in any input
    return cones


def shared_axes(cones: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """Assign inputs to grid axes so that no two inputs of a cone share an axis (greedy colouring).

    Args:
        cones: the inputs of each observable.
        sizes: the number of nodes that each input needs.

    Returns:
        The axis of each input, and the shape of the grid, with the most nodes that an input of each axis needs.
    """
    axes = [-1] * len(sizes)
    for q in sorted(range(len(sizes)), key=lambda q: -sizes[q]):  # stable: equal sizes keep their order
        taken = {axes[other] for cone in cones if q in cone for other in cone}
        axes[q] = next(axis for axis in range(len(sizes)) if axis not in taken)
    shape = [max(size for q, size in enumerate(sizes) if axes[q] == axis) for axis in range(max(axes) + 1)]
    return axes, tuple(shape)


def fit_smallest(
    network: QuantumNetwork, weights: ArrayLike | None, observables: Sequence[str]
) -> FourierSurrogate | LightConeSurrogate:
    """Fit a surrogate of all outcomes, or only of the observables if this takes fewer circuits."""
    whole = math.prod(grid_sizes(network.ansatz))
    if LightConeSurrogate.num_circuits(network.ansatz, observables) < whole:
        return LightConeSurrogate.fit(network, weights, observables=observables)
    return FourierSurrogate.fit(network, weights)


class LightConeSurrogate:
    """The probabilities of odd parity, (1 - expectation) / 2, of observables, as series in the inputs of each.

    Args:
        num_inputs: number of inputs n.
        parts: (inputs, outputs, surrogate) for each group of outputs with the same light cone.
        num_points: number of circuits that the fit ran.
    """

    def __init__(
        self, num_inputs: int, parts: Sequence[tuple[Sequence[int], Sequence[int], FourierSurrogate]], num_points: int
    ) -> None:
        self.num_inputs, self.num_points = num_inputs, num_points
        self.parts = [(list(inputs), list(outputs), surrogate) for inputs, outputs, surrogate in parts]
        self._order = np.argsort([output for _, outputs, _ in self.parts for output in outputs]).tolist()
        single = all(len(inputs) == 1 for inputs, _, _ in self.parts)
        self._waves = _Waves(self.parts) if single else None

    @property
    def shots(self) -> int:
        """The smallest number of shots behind a grid point; 0 if exact."""
        return min(surrogate.shots for *_, surrogate in self.parts)

    @staticmethod
    def num_circuits(ansatz: Ansatz, observables: Sequence[str]) -> int:
        """Number of circuits of a :meth:`fit`, also if it is above the limit."""
        return math.prod(shared_axes(light_cones(ansatz, observables), grid_sizes(ansatz))[1])

    @classmethod
    def fit(
        cls, network: QuantumNetwork, weights: ArrayLike | None = None, *, observables: Sequence[str]
    ) -> LightConeSurrogate:
        """Run the network on the shared grid, and solve for the series of each observable.

        Args:
            network: the network. Its noise must not depend on the inputs.
            weights: (num_weights,), radians, held fixed. Default: None, only for an ansatz without weights.
            observables: names such as "Z0" or "Z0Z1".

        Raises:
            ValueError: if a name is invalid, an angle is not linear in an input, a frequency is not an integer, or the
                grid has more than 20,000 points.
        """
        ansatz = network.ansatz
        cones = light_cones(ansatz, observables)
        axes, shape = shared_axes(cones, grid_sizes(ansatz))
        digits = grid_points(check_grid(shape))  # (points, axes)
        odd = (1 - expectation_matrix(observables, ansatz.num_qubits).numpy()) / 2
        values = (run_in_chunks(network, digits[:, axes], weights) @ odd).reshape(*shape, -1)
        parts = []
        for cone in sorted(set(cones)):
            outputs = [k for k, other in enumerate(cones) if other == cone]
            own = [axes[q] for q in cone]
            others = tuple(axis for axis in range(len(shape)) if axis not in own)
            kept = sorted(own)
            table = values[..., outputs].mean(others) if others else values[..., outputs]
            table = np.moveaxis(table, [kept.index(axis) for axis in own], range(len(own)))
            repeats = math.prod(shape[axis] for axis in others)
            shots = (network.qnn.shots or 0) * repeats
            parts.append((cone, outputs, FourierSurrogate.from_grid(np.ascontiguousarray(table), shots)))
        return cls(ansatz.num_inputs, parts, len(digits))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Evaluate the probabilities of odd parity at inputs (B, n): (B, O); differentiable."""
        if self._waves is not None:
            return self._waves(inputs)
        return self._gather([surrogate(inputs[:, own]) for own, _, surrogate in self.parts])

    def variance(self, inputs: Tensor) -> Tensor:
        """Predict the variance of the outputs at inputs (B, n) due to the shots behind the fit: (B, O)."""
        return self._gather([surrogate.variance(inputs[:, own]) for own, _, surrogate in self.parts])

    def split(self, samples: Tensor) -> PowerSplit:
        """Split the power of the expectations, which are in [-1, 1]; see :meth:`FourierSurrogate.split`."""
        sizes = [1] * self.num_inputs
        for own, _, surrogate in self.parts:
            for q, size in zip(own, surrogate.coefficients.shape, strict=False):
                sizes[q] = max(sizes[q], size)
        return split_samples(1 - 2 * self(samples.double()), samples, sizes)

    def _gather(self, outputs: list[Tensor]) -> Tensor:
        return torch.cat(outputs, -1)[:, self._order]

    def state_dict(self) -> dict[str, Any]:
        """A flat dict of tensors and numbers."""
        state: dict[str, Any] = {"num_inputs": self.num_inputs, "num_points": self.num_points}
        for i, (own, outputs, surrogate) in enumerate(self.parts):
            part = {name: torch.tensor(of, device="cpu") for name, of in (("inputs", own), ("outputs", outputs))}
            part |= surrogate.state_dict()
            state |= {f"part{i}.{name}": value for name, value in part.items()}
        return state

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> LightConeSurrogate:
        """Restore a surrogate from its :meth:`state_dict`."""
        parts = []
        while f"part{len(parts)}.shots" in state:
            prefix = f"part{len(parts)}."
            part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            inputs, outputs = part["inputs"].tolist(), part["outputs"].tolist()
            parts.append((inputs, outputs, FourierSurrogate.from_state_dict(part)))
        return cls(state["num_inputs"], parts, state["num_points"])


class _Waves:
    """Evaluates outputs of one input each at once, as sums of amplitude * cos(k * x - shift)."""

    def __init__(self, parts: Sequence[tuple[Sequence[int], Sequence[int], FourierSurrogate]]) -> None:
        outputs = sum(len(own) for _, own, _ in parts)
        terms = max(len(surrogate.coefficients) for *_, surrogate in parts)
        table = torch.zeros(terms, outputs, dtype=torch.float64, device="cpu")
        self.inputs = [0] * outputs
        for (own,), columns, surrogate in parts:
            table[: len(surrogate.coefficients), columns] = surrogate.coefficients
            for column in columns:
                self.inputs[column] = own
        self.constant = table[0]
        self.amplitudes, self.shifts = torch.hypot(table[1::2], table[2::2]), torch.atan2(table[2::2], table[1::2])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, n) to (B, O)."""
        x = inputs if self.inputs == list(range(inputs.shape[1])) else inputs[:, self.inputs]
        value = self.constant.to(x).expand(len(x), -1)
        for k, (amplitude, shift) in enumerate(zip(self.amplitudes.to(x), self.shifts.to(x), strict=True), 1):
            value = torch.addcmul(value, amplitude, ((x if k == 1 else k * x) - shift).cos())
        return value
