"""A circuit of your own as the optimizer's perturbation, on a simulated IBM device, with an audit of what it does.

In this folder:  python -m lightning_qsgd audit --config configs/seqcls.yaml --config own_circuit.yaml
It measures the circuit on FakeManilaV2 (qiskit-ibm-runtime: pip install qiskit-ibm-runtime), trains, and says
which share of the perturbation is a constant, needs one angle, needs several, and which classical map does the same;
the page it names shows that in figures, and how far the device is from the exact circuit. This circuit, at the small
weights of a network, is nearly a constant for each tensor: a smaller learning rate.
"""

from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from lightning_qsgd.optim import CircuitPerturbation
from lightning_qsgd.quantum import Ansatz


class Ring(CircuitPerturbation):
    """RY of each angle, then CNOTs around the ring. s of a coordinate is P(1) - P(0) of its qubit."""

    @property
    def ansatz(self) -> Ansatz:
        """The circuit, and which of its parameters are the angles."""
        angles, circuit = ParameterVector("a", self.num_qubits), QuantumCircuit(self.num_qubits)
        for q in range(self.num_qubits):
            circuit.ry(angles[q], q)
        for q in range(self.num_qubits):
            circuit.cx(q, (q + 1) % self.num_qubits)
        return Ansatz(circuit, list(angles))
