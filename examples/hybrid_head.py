"""A circuit as the last layer of a model, trained with it.

In this folder:
    python -m lightning_qsgd fit --config configs/seqcls.yaml --config configs/overlay/adamw.yaml \
        --model.head hybrid_head.HybridHead --experiment hybrid
Without the circuit, for comparison: the same without --model.head. Any model that calls its head with (features,
classes), or any module of your own, can have such a layer; gradients of inputs and weights flow through it.
"""

from torch import Tensor, nn

from lightning_qsgd.quantum import QuantumLayer, layered_circuit


class HybridHead(nn.Module):
    """Features (B, in_features), an angle for each qubit, the expectation of Z of each, class scores (B, num_classes).

    Args:
        in_features, num_classes: given by the model.
        num_qubits: qubits and angles. Default: 4.
        depth: layers of the circuit. Default: 2.
    """

    def __init__(self, in_features: int, num_classes: int, num_qubits: int = 4, depth: int = 2) -> None:
        super().__init__()
        measured = [f"Z{q}" for q in range(num_qubits)]
        self.angles = nn.Linear(in_features, num_qubits)
        self.circuit = QuantumLayer(layered_circuit(num_qubits, depth), "expectations", observables=measured)
        self.scores = nn.Linear(num_qubits, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Class scores of features."""
        return self.scores(self.circuit(self.angles(features)))
