# pyright: reportInvalidTypeForm=false
# (Qiskit's Parameter comes from a compiled module without types.)
"""Noise in training: Pauli errors at random, drawn anew for each row, on the exact simulator.

The mean over draws is the noisy circuit's, and each draw costs one circuit of pure states, with exact gradients
(Monte Carlo wave functions: Dalibard, Castin and Molmer 1992, for channels that are mixtures of Paulis).

Shapes: B rows, n qubits, E errors, each an X or a Z of a qubit after a gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from torch import Tensor

from lightning_qsgd.files import close
from lightning_qsgd.quantum.angles import check_inputs
from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.noise import BASIS
from lightning_qsgd.quantum.simulator import CircuitSimulator, Engine


@dataclass(frozen=True)
class PauliNoise:
    """Errors after each gate of the basis rz, sx, x, cx, except rz, which makes none; and errors of the readout.

    Args:
        depolarizing: probability that a gate replaces the state of its qubits by the fully mixed one, 0 to 1; Qiskit
            Aer's ``depolarizing_error``. Default: 0.
        dephasing: probability of a Z on each qubit of a gate, 0 to 1. Default: 0.
        twirled_amplitude_damping: probability that a gate lets each of its qubits fall from 1 to 0, 0 to 1, as its
            Pauli twirl: X and Y with a quarter of it each, and Z, so that the qubit tends to the fully mixed state
            instead of 0. Default: 0.
        readout: probability to read a bit wrong, 0 to 1; or two, to read 1 for 0, and 0 for 1. Default: 0.

    Raises:
        ValueError: if a probability is out of range.
    """

    depolarizing: float = 0.0
    dephasing: float = 0.0
    twirled_amplitude_damping: float = 0.0
    readout: float | tuple[float, float] = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            pair = isinstance(value, tuple) and field.name == "readout" and len(value) == 2
            if not all(isinstance(p, int | float) and 0 <= p <= 1 for p in (value if pair else (value,))):
                raise ValueError(f"Invalid {field.name}: {value!r}; it must be between 0 and 1")

    @classmethod
    def of(cls, noise: PauliNoise | Mapping[str, Any]) -> PauliNoise:
        """The noise, from a mapping of its arguments if need be.

        Raises:
            ValueError: if an argument is unknown, or its value is invalid.
        """
        if isinstance(noise, PauliNoise):
            return noise
        known = [field.name for field in fields(cls)]
        if not isinstance(noise, Mapping):
            raise ValueError(f"Invalid noise: {noise!r}; write for example {{'depolarizing': 0.01}}")
        if unknown := [name for name in noise if name not in known]:
            raise ValueError(f"Invalid noise: {unknown[0]!r}{close(str(unknown[0]), known)}; it has {', '.join(known)}")
        values: dict[str, Any] = {name: tuple(p) if isinstance(p, list) else p for name, p in noise.items()}
        return cls(**values)

    def probabilities(self, num_qubits: int) -> NDArray[np.float64]:
        """The probability of each Pauli after a gate, (4**num_qubits,).

        Bits 2 q and 2 q + 1 of the index say whether the Pauli has an X and a Z on qubit q of the gate.
        """
        damping = self.twirled_amplitude_damping
        both = damping / 4  # X, Y
        twirl = np.array([(1 + sqrt(1 - damping)) ** 2 / 4, both, (1 - sqrt(1 - damping)) ** 2 / 4, both])
        single = _composed(np.array([1 - self.dephasing, 0, self.dephasing, 0]), twirl)
        total = single if num_qubits == 1 else np.outer(single, single).ravel()
        mixed = np.full(4**num_qubits, self.depolarizing / 4**num_qubits)
        mixed[0] += 1 - self.depolarizing
        return _composed(mixed, total)

    @property
    def flips(self) -> tuple[float, float]:
        """Probabilities to read 1 for 0, and 0 for 1."""
        return self.readout if isinstance(self.readout, tuple) else (self.readout, self.readout)


def _composed(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Paulis' probabilities of two channels, one after the other: up to a phase, Paulis multiply as bits add."""
    index = np.arange(len(first))
    return np.array([(first * second[index ^ k]).sum() for k in index])


class NoisySimulator(CircuitSimulator):
    """A simulator with Pauli noise: each call draws new errors for each row.

    Errors are drawn from torch's global generator, as those of ``torch.nn.Dropout``, but in evaluation as in training.
    The circuit is transpiled to the basis rz, sx, x, cx once, with its parameters unbound.

    Args:
        ansatz: the circuit, as for :class:`CircuitSimulator`.
        noise: its errors.
        engine: "torch" or "native". Default: "torch".

    Raises:
        ValueError: as :class:`CircuitSimulator`.
    """

    def __init__(self, ansatz: Ansatz, noise: PauliNoise, engine: Engine = "torch") -> None:
        noisy, self._sizes = _with_errors(ansatz)
        super().__init__(noisy, engine=engine)
        self.clean, self.noise = ansatz, noise
        self._edges = [torch.from_numpy(noise.probabilities(size).cumsum()[:-1]) for size in (1, 2)]

    def measuring(self, paulis: Mapping[int, str]) -> NoisySimulator:
        """The simulator of :meth:`Ansatz.measuring`, with noise after the gates of the change of basis, too."""
        return self.for_circuit(self.clean.measuring(paulis))

    def for_circuit(self, ansatz: Ansatz) -> NoisySimulator:
        """The simulator of another circuit, with the same noise and on the same engine."""
        return NoisySimulator(ansatz, self.noise, self.engine)

    def __call__(self, inputs: Tensor, weights: Tensor | None = None, state: Tensor | None = None) -> Tensor:
        """Compute outcome probabilities with one draw of errors for each row; arguments as in the base class."""
        check_inputs(inputs, self.clean.num_inputs)
        angles = self.clean.normal_form.angles.encoded(inputs)
        found = super().__call__(torch.cat([angles, self.draw(inputs)], -1), weights, state)
        return self._read(found)

    def draw(self, inputs: Tensor) -> Tensor:
        """Draw errors for rows (B, I): (B, E) angles in their dtype, pi for an error and 0 for none."""
        bits = []
        for size, count, edges in zip((1, 2), self._sizes, self._edges, strict=True):
            drawn = torch.rand(len(inputs), count, dtype=inputs.dtype, device=inputs.device)
            paulis = torch.bucketize(drawn, edges.to(inputs), right=True)
            bits.append((paulis[..., None] >> torch.arange(2 * size, device=inputs.device) & 1).flatten(1))
        return torch.cat(bits, 1).to(inputs.dtype) * torch.pi

    def _read(self, probabilities: Tensor) -> Tensor:
        """Probabilities with errors of the readout."""
        probabilities = probabilities.unflatten(-1, (-1, 2**self.clean.num_qubits)).sum(1)  # over a router's ancillas
        wrong, lost = self.noise.flips
        if not wrong and not lost:
            return probabilities
        for q in range(self.clean.num_qubits):
            zero, one = probabilities.unflatten(-1, (-1, 2, 2**q)).unbind(-2)
            read = [(1 - wrong) * zero + lost * one, wrong * zero + (1 - lost) * one]
            probabilities = torch.stack(read, -2).flatten(1)
        return probabilities


def _with_errors(ansatz: Ansatz) -> tuple[Ansatz, tuple[int, int]]:
    """The circuit in the basis with an RX and an RZ for the errors of each qubit after each gate.

    The errors are its last inputs: first those of gates on one qubit, then those of gates on two. Also returns the
    numbers of these gates.
    """
    circuit = ansatz.normal_form.circuit()
    circuit.remove_final_measurements()
    circuit = transpile(circuit, basis_gates=list(BASIS), optimization_level=1, seed_transpiler=0)
    noisy = QuantumCircuit(circuit.num_qubits)
    errors: tuple[list[Parameter], list[Parameter]] = ([], [])
    for instruction in circuit.data:
        qubits = [circuit.find_bit(qubit).index for qubit in instruction.qubits]
        noisy.append(instruction.operation, qubits)
        if instruction.operation.name in BASIS and instruction.operation.name != "rz":
            own = errors[len(qubits) - 1]
            for qubit in qubits:
                for gate in ("rx", "rz"):
                    own.append(Parameter(f"error{len(qubits)}_{len(own)}"))
                    getattr(noisy, gate)(own[-1], qubit)
    for parameter in {*ansatz.inputs, *ansatz.weights}.difference(noisy.parameters):
        noisy.global_phase += parameter  # an ansatz names the circuit's parameters
    made = Ansatz(noisy, [*ansatz.inputs, *errors[0], *errors[1]], ansatz.weights)
    return made, (len(errors[0]) // 2, len(errors[1]) // 4)
