"""A circuit as the last layer of a model, trained with it.

In this folder:
    python -m lightning_qsgd fit --config configs/seqcls.yaml --config configs/overlay/adamw.yaml \
        --model.head hybrid_head.HybridHead --experiment hybrid
Trained on the simulator, it is tested on a simulated IBM device:
    python -m lightning_qsgd test --config configs/seqcls.yaml --config configs/overlay/adamw.yaml \
        --model.head hybrid_head.HybridHead --experiment hybrid --ckpt_path best --data.test_size 200 \
        --model.head.sampler lightning_qsgd.quantum.FakeBackendSampler --model.head.sampler.name FakeJakartaV2
Without the circuit, for comparison: fit without --model.head. Any model that calls its head with (features,
classes), or any module of your own, can have such a layer; gradients of inputs and weights flow through it.
"""

from qiskit.primitives import BaseSamplerV2
from torch import Tensor, nn

from lightning_qsgd.quantum import QuantumLayer, QuantumNetwork, layered_circuit


class HybridHead(nn.Module):
    """Features (B, in_features), an angle for each qubit, the expectation of Z of each, class scores (B, num_classes).

    Args:
        in_features, num_classes: given by the model.
        num_qubits: qubits and angles. Default: 4.
        depth: layers of the circuit. Default: 2.
        sampler: where circuits run. None (default): the exact simulator, which trains by autograd.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_qubits: int = 4,
        depth: int = 2,
        sampler: BaseSamplerV2 | None = None,
    ) -> None:
        super().__init__()
        ansatz = layered_circuit(num_qubits, depth)
        network = QuantumNetwork(ansatz, sampler) if sampler else None
        measured = [f"Z{q}" for q in range(num_qubits)]
        self.angles = nn.Linear(in_features, num_qubits)
        self.circuit = QuantumLayer(ansatz, "expectations", network, observables=measured)
        self.scores = nn.Linear(num_qubits, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Class scores of features."""
        return self.scores(self.circuit(self.angles(features)))
