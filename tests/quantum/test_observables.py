import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp, Statevector

from lightning_qsgd.quantum import Ansatz, CircuitSimulator, modulation_matrix, superposition_circuit
from lightning_qsgd.quantum.observables import expectation_matrix, z_string


def test_expectations_equal_qiskits():
    ansatz = superposition_circuit(3, 2)
    inputs, weights = torch.randn(1, 3, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    bound = ansatz.circuit.assign_parameters(
        dict(zip(ansatz.inputs + ansatz.weights, torch.cat([inputs[0], weights]).tolist()))
    )
    names, labels = ["Z0", "Z2", "Z0Z1", "Z2Z0", "Z0Z1Z2"], ["IIZ", "ZII", "IZZ", "ZIZ", "ZZZ"]
    expected = [Statevector(bound).expectation_value(SparsePauliOp(label)).real for label in labels]
    ours = CircuitSimulator(ansatz)(inputs, weights) @ expectation_matrix(names, 3)
    torch.testing.assert_close(ours[0], torch.tensor(expected, dtype=torch.float64))


def test_modulations_are_negative_expectations_of_decoded_bits():
    plain, decoded = modulation_matrix(3, False), modulation_matrix(3, True)
    assert plain[0b101].tolist() == [1, -1, 1]
    assert decoded[0b101].tolist() == [1, 1, 1]  # x = (1, 0 ^ 1, 1 ^ 0)


@pytest.mark.parametrize("name", ["", "X0", "Z", "Z0Z0", "Z3", "Z0 Z1", "ZZI"])
def test_invalid_names_are_refused(name):
    with pytest.raises(ValueError, match=r"Invalid observable: .*qubits 0 to 2"):
        z_string(name, 3)


def test_what_the_message_says_of_x_and_y_reads_them():
    """Right value: Qiskit's expectation of X and Y in the state before the added gates."""
    x = Parameter("x")
    circuit = QuantumCircuit(2)
    circuit.ry(x, 0)
    circuit.rz(0.4, 0)
    circuit.cx(0, 1)
    circuit.rx(0.9, 1)
    for name, gates in (("X", ["h"]), ("Y", ["sdg", "h"])):
        with pytest.raises(ValueError, match=r"for Y, with sdg and then h"):
            z_string(f"{name}1", 2)
        for label, qubits in ((f"{name}I", [1]), (f"{name}{name}", [0, 1])):
            ended = circuit.copy()
            for gate in gates:
                getattr(ended, gate)(qubits)
            read = CircuitSimulator(Ansatz(ended, [x]))(torch.tensor([[0.7]], dtype=torch.float64))
            ours = read @ expectation_matrix(["".join(f"Z{q}" for q in qubits)], 2)
            truth = Statevector(circuit.assign_parameters([0.7])).expectation_value(SparsePauliOp(label)).real
            assert ours.item() == pytest.approx(truth, abs=1e-12)


def test_none_are_refused():
    with pytest.raises(ValueError, match="none given"):
        expectation_matrix([], 2)
