"""QuantumHead: the last layer of a classifier, with a circuit in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2


class QuantumHead(nn.Module):
    """A circuit between two linear maps: features to one angle per qubit, expectations of Z to class scores.

    Args:
        in_features: number of features D.
        num_classes: number of classes C.
        num_qubits: number of qubits and of angles, at least 1. Default: 4.
        depth: layers of the circuit, at least 1; see :func:`lightning_qsgd.quantum.layered_circuit`. Default: 2.
        encoding: "reuploading" (angles in every layer) or "angle" (only in the first). Default: "reuploading".
        entanglement: "linear", or "none", the control for entanglement. Default: "linear".
        observables: products of Z to measure, such as "Z0Z1". Default: Z of each qubit and of each pair of neighbours;
            the chain of CNOTs makes the pairs sensitive to single angles.
        sampler: where the circuits run. None (default) simulates them exactly, with gradients by autograd. A
            ``BaseSamplerV2`` runs one circuit per row, and in training two more per row and gate with parameters (40
            for 4 qubits and depth 2).

    Raises:
        ValueError: if an option is invalid.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_qubits: int = 4,
        depth: int = 2,
        encoding: Literal["angle", "reuploading"] = "reuploading",
        entanglement: Literal["linear", "none"] = "linear",
        observables: list[str] | None = None,
        sampler: BaseSamplerV2 | None = None,
    ) -> None:
        from lightning_qsgd.quantum import QuantumLayer, QuantumNetwork, layered_circuit

        super().__init__()
        ansatz = layered_circuit(num_qubits, depth, encoding, entanglement)
        engine = "simulator" if sampler is None else QuantumNetwork(ansatz, sampler)
        if observables is None:
            observables = [f"Z{q}" for q in range(num_qubits)] + [f"Z{q - 1}Z{q}" for q in range(1, num_qubits)]
        self.reduce = nn.Linear(in_features, num_qubits)
        self.circuit = QuantumLayer(ansatz, "expectations", engine, observables=observables)
        self.classify = nn.Linear(len(observables), num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D) to logits (B, C)."""
        return self.classify(self.circuit(self.reduce(features)))
