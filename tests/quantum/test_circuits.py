import math

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import Statevector

from lightning_qsgd.quantum import Ansatz, CircuitSimulator, layered_circuit, superposition_circuit
from lightning_qsgd.quantum.surrogate import input_degrees


def probabilities(ansatz, inputs, weights=()):
    values = dict(zip([*ansatz.inputs, *ansatz.weights], [*inputs, *weights], strict=True))
    return Statevector(ansatz.circuit.assign_parameters(values)).probabilities()


def test_superposition_circuit_is_equation_5():
    ansatz = superposition_circuit(num_qubits=3, depth=2)
    assert (ansatz.num_qubits, ansatz.num_inputs, ansatz.num_weights) == (3, 3, 9)
    assert dict(ansatz.circuit.count_ops()) == {"h": 6, "ry": 6, "rz": 3, "cx": 4}
    names = [gate.operation.name for gate in ansatz.circuit.data]
    assert names[:3] == ["h", "ry", "rz"]
    chains = [tuple(ansatz.circuit.find_bit(q).index for q in g.qubits) for g in ansatz.circuit.data if g.name == "cx"]
    assert chains == [(0, 1), (1, 2)] * 2
    assert [p.name for p in ansatz.weights[:7]] == [*(f"theta[{i}]" for i in range(6)), "phi[0]"]
    assert "cx" not in superposition_circuit(entanglement="none").circuit.count_ops()


def test_the_last_layers_rz_is_unobservable():
    ansatz = superposition_circuit(num_qubits=3, depth=2)
    with_rz = QuantumCircuit(3)
    rng = np.random.default_rng(0)
    inputs, theta, phi = rng.normal(size=3), rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    for layer in range(2):
        for q in range(3):
            with_rz.h(q)
            with_rz.ry(inputs[q] + theta[layer, q], q)
            with_rz.rz(phi[layer, q], q)
        with_rz.cx(0, 1)
        with_rz.cx(1, 2)
    ours = probabilities(ansatz, inputs, [*theta.flatten(), *phi[0]])
    np.testing.assert_allclose(ours, Statevector(with_rz).probabilities(), atol=1e-14)


@pytest.mark.parametrize("arguments", [{"num_qubits": 0}, {"depth": 0}, {"entanglement": "ring"}])
def test_invalid_circuits_are_refused(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"Invalid {name}: {value!r}"):
        superposition_circuit(**arguments)


def test_ansatz_refuses_what_a_network_would_get_wrong():
    x, y = Parameter("x"), Parameter("y")
    circuit = QuantumCircuit(1)
    circuit.ry(x, 0)
    with pytest.raises(ValueError, match=r"neither input nor weight: \['x'\]"):
        Ansatz(circuit, [])
    with pytest.raises(ValueError, match=r"named twice.*'x', 'x'"):
        Ansatz(circuit, [x], [x])
    with pytest.raises(ValueError, match=r"not in the circuit: \['y'\]"):
        Ansatz(circuit, [x, y])
    circuit.rz(y, 0)
    with pytest.raises(ValueError, match=r"neither input nor weight: \['y'\]"):
        Ansatz(circuit, [x])
    with pytest.raises(ValueError, match=r"another Parameter called 'y'.*take them from the circuit"):
        Ansatz(circuit, [x], [Parameter("y")])
    with pytest.raises(ValueError, match=r"Invalid circuit: .* \(str\); it must be a QuantumCircuit"):
        Ansatz("circuit", [x])


def test_order_of_inputs_is_the_ansatz_own_not_the_alphabets():
    x = [Parameter(f"x{i}") for i in range(11)]  # circuit.parameters sorts x0, x1, x10, x2, ...
    circuit = QuantumCircuit(11)
    for i, parameter in enumerate(x):
        circuit.rx(parameter, i)
    ansatz = Ansatz(circuit, x)
    inputs = np.zeros(11)
    inputs[10] = math.pi
    assert probabilities(ansatz, inputs).argmax() == 2**10
    assert list(ansatz.inputs) == x


@pytest.mark.parametrize(("encoding", "degree"), [("angle", 1), ("reuploading", 3)])
def test_layered_circuit(encoding, degree):
    ansatz = layered_circuit(2, 3, encoding)
    assert (ansatz.num_inputs, ansatz.num_weights) == (2, 10)
    assert input_degrees(ansatz) == [degree] * 2
    assert ansatz.circuit.count_ops()["cx"] == 3
    assert "cx" not in layered_circuit(2, 3, encoding, "none").circuit.count_ops()


def test_every_weight_of_a_layered_circuit_is_observable():
    ansatz = layered_circuit(3, 2)
    simulate, inputs = CircuitSimulator(ansatz), torch.randn(1, 3, dtype=torch.float64)
    weights = torch.randn(ansatz.num_weights, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda w: simulate(inputs, w)[0])(weights)
    assert jacobian.abs().amax(0).min() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_qubits": 0}, "Invalid num_qubits: 0"),
        ({"depth": 0}, "Invalid depth: 0"),
        ({"encoding": "amplitude"}, "Invalid encoding: 'amplitude'"),
        ({"entanglement": "full"}, "Invalid entanglement: 'full'"),
    ],
)
def test_invalid_layered_circuits(arguments, message):
    with pytest.raises(ValueError, match=message):
        layered_circuit(**arguments)


def test_separated_gates_are_the_same_circuit():
    ansatz = superposition_circuit(3, 2)
    separated, angles = ansatz.separated(), ansatz.normal_form.angles
    assert (separated.num_inputs, separated.num_weights) == (9, 0)
    parameters = torch.randn(4, 12, dtype=torch.float64)
    values = torch.from_numpy(angles.values(parameters[:, :3].numpy(), parameters[0, 3:].numpy()))
    ours = CircuitSimulator(separated)(values)
    torch.testing.assert_close(ours, CircuitSimulator(ansatz)(parameters[:, :3], parameters[0, 3:]))
