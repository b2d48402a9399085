import re
from itertools import product

import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp, Statevector

from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    CircuitSimulator,
    ExactSampler,
    QuantumLayer,
    modulation_matrix,
    superposition_circuit,
)
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


@pytest.mark.parametrize("name", ["", "Q0", "Z", "Z0Z0", "X0Z0", "Z3", "Z0 Z1", "ZZI"])
def test_invalid_names_are_refused(name):
    with pytest.raises(ValueError, match=r"Invalid observable: .*qubits 0 to 2"):
        z_string(name, 3)
    with pytest.raises(ValueError, match=r"Invalid observable: .*qubits 0 to 2"):
        layer(observables=[name])


def layer(engine="simulator", **options):
    return QuantumLayer("ring", "expectations", engine, circuit={"num_qubits": 3, "depth": 2}, **options)


def of_qiskit(ansatz, inputs, weights, operators):
    """(B, operators)."""
    rows = []
    for row in inputs.tolist():
        values = dict(zip([*ansatz.inputs, *ansatz.weights], [*row, *weights.tolist()], strict=True))
        state = Statevector(ansatz.circuit.assign_parameters(values))
        rows.append([state.expectation_value(operator).real for operator in operators])
    return torch.tensor(rows, dtype=torch.float64)


OPERATOR = SparsePauliOp(["XYZ", "ZZI", "YII", "ZZI"], [0.1, 0.2, -0.3, 0.1])
MANY = ["Z0", "X0Y1", {"Z1Z0": 0.1, "X2": -0.7, "I": 2, "Z0Z1": 0.3}, OPERATOR, "I"]
QISKITS = [
    SparsePauliOp("IIZ"),
    SparsePauliOp("IYX"),
    SparsePauliOp(["IZZ", "XII", "III"], [0.4, -0.7, 2]),
    OPERATOR,
    SparsePauliOp("III"),
]


@pytest.mark.parametrize("engine", ["torch", "native", ExactSampler()])
def test_any_observable_equals_qiskits_and_so_do_its_derivatives(engine):
    ours, inputs = layer(engine, observables=MANY), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(18, dtype=torch.float64, requires_grad=True)
    outputs = ours(inputs, weights)
    torch.testing.assert_close(outputs, of_qiskit(ours.ansatz, inputs, weights, QISKITS), rtol=0, atol=1e-12)
    outputs.square().sum().backward()
    step = 1e-6
    for tensor, place in ((inputs, (1, 2)), (weights, (7,))):
        shift = torch.zeros_like(tensor)
        shift[place] = step
        moved = [
            of_qiskit(ours.ansatz, *[t + sign * shift if t is tensor else t for t in (inputs, weights)], QISKITS)
            for sign in (1, -1)
        ]
        slope = (moved[0].square().sum() - moved[1].square().sum()) / (2 * step)
        torch.testing.assert_close(tensor.grad[place], slope, rtol=1e-7, atol=1e-7)


def test_names_say_what_an_output_is():
    assert layer(observables=MANY).observables == (
        "Z0",
        "X0Y1",
        "0.1 Z0Z1 - 0.7 X2 + 2 I + 0.3 Z0Z1",
        "0.1 Z0Y1X2 + 0.3 Z1Z2 - 0.3 Y2",
        "I",
    )


def test_products_that_agree_on_shared_qubits_are_read_from_one_circuit():
    assert len(layer(observables=["Z0", "Z0Z1", "Z2"]).measured) == 1
    assert len(layer(observables=["X0", "X0Z1", "Y2", "Z1Y2"]).measured) == 1
    assert len(layer(observables=["X0", "Z0"]).measured) == 2
    every = SparsePauliOp(["".join(paulis) for paulis in product("IXYZ", repeat=3)])
    assert len(layer(observables=every).measured) == 27


def test_each_circuit_gets_all_shots_and_the_counts_are_those_of_all():
    sampled = layer(AerSampler(shots=2000), observables=["Z0", "X0", "Y0"])
    inputs = torch.randn(3, 3, dtype=torch.float64)
    outputs = sampled(inputs)
    assert (sampled.circuits, sampled.shots) == (9, 18_000)
    expected = of_qiskit(sampled.ansatz, inputs, sampled.weights.detach(), [SparsePauliOp(f"II{p}") for p in "ZXY"])
    torch.testing.assert_close(outputs.detach(), expected, rtol=0, atol=5 / 2000**0.5)


@pytest.mark.parametrize("engine", ["torch", ExactSampler()])
def test_trained_coefficients_start_as_given_are_saved_and_get_their_gradient(engine):
    ours = layer(engine, observables=MANY, train_coefficients=True)
    assert ours.coefficients.tolist() == pytest.approx([1, 1, 0.1, -0.7, 2, 0.3, 0.1, 0.3, -0.3, 1])
    assert list(ours.state_dict()) == ["weights", "coefficients", "_extra_state"]
    inputs = torch.randn(2, 3)
    before = ours(inputs)
    torch.testing.assert_close(before, layer(engine, observables=MANY, initial=ours.weights.detach())(inputs))
    before.sum().backward()
    torch.testing.assert_close(ours.coefficients.grad[0], before[:, 0].sum().detach())  # of a product alone: its mean
    torch.testing.assert_close(ours.coefficients.grad[4], torch.tensor(2.0))  # of I, in each row
    with torch.no_grad():
        ours.coefficients[1] = 3.0
    torch.testing.assert_close(ours(inputs)[:, 1], 3 * before[:, 1])


def test_coefficients_are_exact_in_float64_even_if_the_layer_is_not():
    ours = layer(observables=[{"I": 0.1}]).bfloat16()
    assert ours(torch.zeros(1, 3, dtype=torch.float64)).item() == pytest.approx(0.1, abs=1e-15)


@pytest.mark.parametrize(
    ("observable", "message"),
    [
        ({}, "a sum without terms"),
        ({"Z0": "a"}, "the coefficient of 'Z0' is 'a'"),
        ({"Z0": float("nan")}, "the coefficient of 'Z0' is nan"),
        (SparsePauliOp("ZZ"), "an operator of 2 qubits; the circuit has 3"),
        (SparsePauliOp("ZZI", [1j]), "is not real"),
        (SparsePauliOp(["ZZI"], [Parameter("a")]), "hold parameters"),
        (3, "it must be a name such as"),
        ("XIZ", "it is 'Z0X2' here"),
    ],
)
def test_invalid_observables_are_refused(observable, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(observables=[observable])


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
