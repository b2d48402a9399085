"""How a circuit of one score is read, and how its answers at a few scores become a Fourier series.

Shapes: n qubits, M scores, J frequencies.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_qsgd.quantum.circuits import Ansatz, Entanglement, score_circuit
from lightning_qsgd.quantum.constants import Constants
from lightning_qsgd.quantum.fourier import basis, nodes
from lightning_qsgd.quantum.observables import expectation_matrix
from lightning_qsgd.quantum.simulator import MAX_QUBITS, CircuitSimulator

Readout = Literal["probability", "expectation", "amplitude"]


class ScoreSpectrum(Constants):
    """Circuit, readout, and the scores that determine its series.

    Args:
        num_qubits, depth, entanglement: of :func:`score_circuit`; at most 12 qubits.
        readout: see :class:`lightning_qsgd.quantum.ScoreSeries`.

    Attributes:
        ansatz: the circuit, without angles that change no more than the series' constant.
        amplitudes: whether amplitudes are read, not probabilities.
        nodes: M.
        frequencies: J, in multiples of the series' own angle.
        angle_factor: that angle per radian of score: 1, or 1/2 where frequencies are half-integer.
        free: indices of the coefficients (of cos x, sin x, cos 2x, ...) that can differ from 0.
    """

    def __init__(self, num_qubits: int, depth: int, entanglement: Entanglement, readout: Readout) -> None:
        if num_qubits > MAX_QUBITS:
            raise ValueError(f"Invalid num_qubits: {num_qubits}; it must be at most {MAX_QUBITS}")
        self.amplitudes = readout == "amplitude"
        ansatz = score_circuit(num_qubits, depth, entanglement, final_phases=self.amplitudes)
        read = _reading(readout, num_qubits)
        self.ansatz = _observable(ansatz, self.amplitudes, read)
        local = readout == "expectation" and entanglement == "none"  # a sum of qubits' own series
        degree = depth if local else depth * num_qubits
        odd = self.amplitudes and degree % 2 == 1
        self.angle_factor = 0.5 if odd else 1.0
        self.frequencies = degree // 2 if self.amplitudes and not odd else degree
        self.nodes = degree + 1 if self.amplitudes else 2 * degree + 1
        x = nodes(self.nodes)
        waves = basis(self.angle_factor * x, 1 + 2 * self.frequencies)  # (M, 1 + 2 J)
        used = [i for i in range(waves.shape[1]) if not odd or (i + 1) // 2 % 2]  # frequencies j / 2 with odd j
        solve = torch.zeros(waves.shape[1], self.nodes, dtype=torch.float64)
        solve[used] = torch.linalg.inv(waves[:, used])
        self.free = [i - 1 for i in used if i]
        self._exact = x, solve, read
        self.forget_constants()

    def make_constants(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
        """Scores (M,); the matrix from values to coefficients (1 + 2 J, M); weights of outcomes in Phi (2**n,)."""
        return tuple(x.to(dtype, copy=True).to(device) for x in self._exact)


def _reading(readout: Readout, num_qubits: int) -> Tensor:
    if readout == "expectation":
        return expectation_matrix([f"Z{q}" for q in range(num_qubits)], num_qubits).sum(1)
    outcomes = torch.arange(2**num_qubits)
    return ((outcomes >= 1) & (outcomes <= num_qubits)).double()


@torch.inference_mode(False)
@torch.enable_grad()
def _observable(ansatz: Ansatz, amplitudes: bool, read: Tensor) -> Ansatz:
    """The ansatz with those angles fixed at 0 that never change more than Phi's constant.

    Derivatives are analytic in the angles: what is 0 at random points is 0.
    """
    generator = torch.Generator().manual_seed(0)
    x = 6 * torch.rand(8, 1, dtype=torch.float64, generator=generator)
    weights = 6 * torch.rand(8, ansatz.num_weights, dtype=torch.float64, generator=generator)
    weights.requires_grad_()
    simulate = CircuitSimulator(ansatz, amplitudes)
    difference = simulate(x, weights) - simulate(x + 1, weights)
    (gradient,) = torch.autograd.grad(((difference.real if amplitudes else difference) @ read).sum(), weights)
    seen = (gradient.abs().amax(0) > 1e-12).tolist()
    fixed = {p: 0.0 for p, is_seen in zip(ansatz.weights, seen, strict=True) if not is_seen}
    if not fixed:
        return ansatz
    return Ansatz(ansatz.circuit.assign_parameters(fixed), ansatz.inputs, [p for p in ansatz.weights if p not in fixed])
