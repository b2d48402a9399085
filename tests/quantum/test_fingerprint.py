import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.circuit.library import UnitaryGate
from scipy.stats import unitary_group

from lightning_qsgd.quantum import Ansatz, superposition_circuit
from lightning_qsgd.quantum.fingerprint import of_ansatz


def build(name="x", factor=1.0, last="x", block="h", swapped=False):
    x = ParameterVector(name, 2)
    circuit, inner = QuantumCircuit(2), QuantumCircuit(1, name="block")
    getattr(inner, block)(0)
    circuit.ry(factor * x[0] + 0.5, 0)
    circuit.rx(x[1], 1)
    circuit.cx(0, 1)
    circuit.append(inner.to_gate(), [1])
    getattr(circuit, last)(0)
    return Ansatz(circuit, [x[1], x[0]] if swapped else list(x))


def test_names_do_not_count_but_everything_else_does():
    base = of_ansatz(build())
    assert of_ansatz(build("angle")) == base
    others = [build(factor=2), build(last="h"), build(block="s"), build(swapped=True)]
    assert len({base, *map(of_ansatz, others)}) == 5


def test_weights_count_to_1e_9():
    ansatz, weights = superposition_circuit(2, 1), np.array([0.0, 0.3])
    base = of_ansatz(ansatz, weights)
    assert of_ansatz(ansatz, weights + np.array([-1e-17, 1e-12])) == base
    assert of_ansatz(ansatz, weights + np.array([0, 1e-6])) != base
    assert of_ansatz(ansatz) != base


def test_matrices_count_in_full():
    def with_matrix(seed):
        x = ParameterVector("x", 6)
        circuit = QuantumCircuit(6)
        for q in range(6):
            circuit.ry(x[q], q)
        circuit.append(UnitaryGate(unitary_group.rvs(64, random_state=seed)), range(6))
        return Ansatz(circuit, list(x))

    assert of_ansatz(with_matrix(0)) == of_ansatz(with_matrix(0)) != of_ansatz(with_matrix(1))
