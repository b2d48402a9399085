"""QuantumHead: a classifier's last layer with a circuit in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2


class QuantumHead(nn.Module):
    """Linear map to one angle per qubit, circuit, linear map of the expectations of Z to class scores.

    Args:
        in_features: D.
        num_classes: C.
        num_qubits: n, qubits and angles. Default: 4.
        depth: layers of the circuit, see :func:`lightning_qsgd.quantum.layered_circuit`. Default: 2.
        encoding: "reuploading" (angles in each layer) or "angle" (in the first). Default: "reuploading".
        entanglement: "linear" or "none" (a product circuit: the control for entanglement). Default: "linear".
        observables: what is measured, products of Z such as "Z0Z1". Default: Z of each qubit, and of each pair of
            neighbours, which the chain of CNOTs makes sensitive to single angles.
        sampler: None (default): exact simulation, by autograd. A ``BaseSamplerV2``: circuits run there, one for each
            row, and for training two more for each row and gate with parameters (4 qubits, depth 2: 40).

    Raises:
        ValueError: for an invalid option.
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
        """(B, D) to logits (B, C)."""
        return self.classify(self.circuit(self.reduce(features)))
