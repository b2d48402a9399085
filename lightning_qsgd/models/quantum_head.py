"""QuantumHead: the last layer of a classifier, with a circuit in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from lightning_qsgd.models.quantum_body import check_twice, circuit_layer

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2


class QuantumHead(nn.Module):
    """A circuit between two linear maps: features to the circuit's inputs, expectations to class scores.

    Args:
        in_features: number of features D.
        num_classes: number of classes C.
        num_qubits: number of qubits, at least 1. Default: 4.
        depth: layers of the circuit, at least 1; None for a circuit without this option. Default: 2.
        encoding: how angles enter, an option of the circuit; for the default circuit "reuploading" (in every layer) or
            "angle" (only in the first). Default: None, the circuit's default; that of "layered" is "reuploading".
        entanglement: an option of the circuit; for the default circuit "linear" or "none", the control for
            entanglement. Default: None, the circuit's default; that of "layered" is "linear".
        observables: what is measured, one output for each: products of Paulis such as "Z0Z1", or weighted sums such as
            ``{"Z0Z1": 0.5, "X0": 0.5}``. Default: Z of each qubit and of each pair of neighbours; the default
            circuit's chain of CNOTs makes the pairs sensitive to single angles.
        sampler: where the circuits run. None (default) simulates them exactly, with exact gradients. A
            ``BaseSamplerV2`` runs one circuit per row, and in training two more per row and gate with parameters (40
            for 4 qubits and depth 2).
        circuit: name of the circuit; see :func:`lightning_qsgd.quantum.named_circuit`. Default: "layered".
        options: other options of the circuit, such as ``{"gates": ["ry"]}``. Default: none.
        gradients: on a sampler: "shift", exact by parameter shifts, or "spsa", estimates from 2 circuits per row; see
            :class:`lightning_qsgd.quantum.SPSANetwork`. Default: "shift".
        noise: errors of the simulator in training, such as ``{"depolarizing": 0.01}``; see
            :class:`lightning_qsgd.quantum.PauliNoise`. Default: none.

    Raises:
        ValueError: if an option is invalid, or the circuit does not have it.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_qubits: int = 4,
        depth: int | None = 2,
        encoding: str | None = None,
        entanglement: str | None = None,
        observables: list[str | dict[str, float]] | None = None,
        sampler: BaseSamplerV2 | None = None,
        circuit: str = "layered",
        options: dict[str, Any] | None = None,
        gradients: Literal["shift", "spsa"] = "shift",
        noise: dict[str, Any] | None = None,
    ) -> None:
        from lightning_qsgd.quantum import named_circuit

        super().__init__()
        own = {"num_qubits": num_qubits, "depth": depth, "encoding": encoding, "entanglement": entanglement}
        check_twice(own, options)
        own = {name: value for name, value in own.items() if value is not None} | (options or {})
        default = [f"Z{q}" for q in range(num_qubits)] + [f"Z{q - 1}Z{q}" for q in range(1, num_qubits)]
        measured: list[Any] = default if observables is None else list(observables)
        ansatz = named_circuit(circuit, **own)
        self.reduce = nn.Linear(in_features, ansatz.num_inputs)
        self.circuit = circuit_layer(ansatz, measured, sampler, gradients, noise)
        self.classify = nn.Linear(len(measured), num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D) to logits (B, C)."""
        return self.classify(self.circuit(self.reduce(features)))
