"""A circuit as the body of a model, and a recurrent network whose gates are read from a circuit.

Shapes: B batch, D features, O observables, T steps, F values at each step, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

    from lightning_qsgd.quantum import Ansatz, QuantumLayer

MOST_QUBITS = 12  # of a circuit whose size follows from the features


def circuit_layer(
    ansatz: Ansatz,
    observables: list[Any] | None,
    sampler: BaseSamplerV2 | None,
    gradients: Literal["shift", "spsa"],
    noise: dict[str, Any] | None,
) -> QuantumLayer:
    """The expectations of a circuit, as a layer; see :class:`QuantumBody` for the arguments.

    Raises:
        ValueError: if an option is invalid.
    """
    from lightning_qsgd.quantum import QuantumLayer, QuantumNetwork, SPSANetwork

    if gradients not in ("shift", "spsa") or (gradients == "spsa" and sampler is None):
        raise ValueError(f"Invalid gradients: {gradients!r}; it must be 'shift', or 'spsa' with a sampler")
    network = SPSANetwork if gradients == "spsa" else QuantumNetwork
    engine = "simulator" if sampler is None else network(ansatz, sampler)
    return QuantumLayer(ansatz, "expectations", engine, observables=observables, noise=noise)


class QuantumBody(nn.Module):
    """A circuit between encoder and head: features are its angles in radians, and expectations its outputs.

    Args:
        shape: (D,), the number of features; the circuit must have D inputs.
        circuit: name of the circuit; see :func:`lightning_qsgd.quantum.named_circuit`. Default: "ring".
        num_qubits: number of qubits, at least 1. Default: None, one for each feature, up to 12.
        options: other options of the circuit, such as ``{"depth": 2}``. Default: none.
        observables: what is measured, one output for each: products of Paulis such as "Z0Z1", or weighted sums such as
            ``{"Z0Z1": 0.5, "X0": 0.5}``. Default: Z of each qubit.
        sampler: where the circuits run. None (default) simulates them exactly, with exact gradients.
        gradients: on a sampler: "shift", exact by parameter shifts, or "spsa", estimates from 2 circuits per row; see
            :class:`lightning_qsgd.quantum.SPSANetwork`. Default: "shift".
        noise: errors of the simulator, such as ``{"depolarizing": 0.01}``; see
            :class:`lightning_qsgd.quantum.PauliNoise`. Default: none.

    Attributes:
        out_features: number of observables O.

    Raises:
        ValueError: if an option is invalid, or the circuit has not D inputs.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        circuit: str = "ring",
        num_qubits: int | None = None,
        options: dict[str, Any] | None = None,
        observables: list[str | dict[str, float]] | None = None,
        sampler: BaseSamplerV2 | None = None,
        gradients: Literal["shift", "spsa"] = "shift",
        noise: dict[str, Any] | None = None,
    ) -> None:
        from lightning_qsgd.quantum import named_circuit

        super().__init__()
        if len(shape) != 1:
            raise ValueError(
                f"Invalid inputs: a circuit takes features (D,), not {tuple(shape)}; make it the body, after an "
                "encoder such as linear, cnn or recurrent"
            )
        (features,) = shape
        fewer = "let the encoder give as many (encoder lightning_qsgd.models.Linear has an option features)"
        if num_qubits is None and features > MOST_QUBITS:
            raise ValueError(
                f"Invalid body: {features} features would need {features} qubits; the most by default are "
                f"{MOST_QUBITS}: set num_qubits, or {fewer}"
            )
        size = {"num_qubits": features if num_qubits is None else num_qubits}
        check_twice(size, options)
        ansatz = named_circuit(circuit, **size, **(options or {}))
        if (inputs := ansatz.num_inputs) != features:
            raise ValueError(
                f"Invalid body: the circuit {circuit!r} on {size['num_qubits']} qubits has {inputs} inputs, and there "
                f"are {features} features: {fewer}"
            )
        self.circuit = circuit_layer(ansatz, observables, sampler, gradients, noise)
        self.out_features = len(self.circuit.observables)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D) to expectations (B, O)."""
        return self.circuit(features)


class QuantumLSTM(nn.Module):
    """A long short-term memory whose four gates are read from one circuit.

    At each step a linear map of the values and the hidden state gives the angles of a circuit, and a linear map of its
    expectations the four gates. (Chen et al. 2020, arXiv 2009.01783, have a circuit for each gate.)

    Args:
        shape: (T, F): steps of a window, and values at each step.
        hidden: size of the hidden state H, at least 1. Default: 8.
        num_qubits: number of qubits, at least 1. Default: 4.
        circuit, options, observables, sampler, gradients, noise: see :class:`QuantumBody`.

    Attributes:
        out_features: H.

    Raises:
        ValueError: if an option is invalid, or the inputs are not windows.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: int = 8,
        num_qubits: int = 4,
        circuit: str = "ring",
        options: dict[str, Any] | None = None,
        observables: list[str | dict[str, float]] | None = None,
        sampler: BaseSamplerV2 | None = None,
        gradients: Literal["shift", "spsa"] = "shift",
        noise: dict[str, Any] | None = None,
    ) -> None:
        from lightning_qsgd.quantum import named_circuit

        super().__init__()
        if hidden < 1:
            raise ValueError(f"Invalid hidden: {hidden}; it must be at least 1")
        if len(shape) != 2:
            raise ValueError(f"Invalid inputs: a recurrent network takes windows (T, F), not {tuple(shape)}")
        size = {"num_qubits": num_qubits}
        check_twice(size, options)
        ansatz = named_circuit(circuit, **size, **(options or {}))
        self.out_features = hidden
        self.enter = nn.Linear(shape[1] + hidden, ansatz.num_inputs)
        self.circuit = circuit_layer(ansatz, observables, sampler, gradients, noise)
        self.leave = nn.Linear(len(self.circuit.observables), 4 * hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map windows (B, T, F) to the last hidden states (B, H)."""
        hidden = cell = inputs.new_zeros(len(inputs), self.out_features)
        for values in inputs.unbind(1):
            gates = self.leave(self.circuit(self.enter(torch.cat([values, hidden], -1))))
            forget, enter, leave, new = gates.chunk(4, -1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
        return hidden


def check_twice(own: dict[str, Any], options: dict[str, Any] | None) -> None:
    """Refuse an option of a circuit that is given twice, as an argument and among its options."""
    if twice := [name for name in options or {} if own.get(name) is not None]:
        raise ValueError(f"Invalid options: {twice[0]!r} is an argument itself: {twice[0]}={own[twice[0]]!r}")
