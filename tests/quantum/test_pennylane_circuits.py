"""Circuits of PennyLane: the same outputs as PennyLane's own simulator."""

import numpy as np
import pennylane as qml
import pytest
import torch

from lightning_qsgd.quantum import ExactSampler, QuantumLayer, from_pennylane
from lightning_qsgd.quantum.pennylane_circuits import GATES

WIRES = ["a", "b", "c"]
SHAPES = {"weights": (2, 3, 3), "more": 2}


def model(inputs, weights, more):
    """Templates, modifiers, matrices and angles that are linear in several arguments, on wires by name."""
    qml.AngleEmbedding(inputs, wires=WIRES, rotation="Y")
    qml.StronglyEntanglingLayers(weights, wires=["c", "a", "b"])
    qml.ctrl(qml.RX, control="a")(2 * more[0] + 0.3, wires="b")
    qml.adjoint(qml.S)("c")
    qml.Barrier(wires=WIRES)
    qml.IsingXY(more[1], wires=["a", "c"])
    qml.MultiRZ(more[0] - more[1] + inputs[2], wires=WIRES)
    qml.QubitUnitary(qml.matrix(qml.SX(0) @ qml.T(1), wire_order=[0, 1]), wires=["b", "c"])
    qml.PauliRot(inputs[1] * 3, "XYZ", wires=WIRES)
    qml.Rot(more[0], 0.2, more[1], wires="b")
    qml.QFT(wires=["a", "b"])
    return qml.expval(qml.Z("a") @ qml.X("b")), qml.expval(0.5 * qml.Y("c") + qml.Z("a")), qml.expval(qml.I("a"))


NODE = qml.QNode(model, qml.device("default.qubit", wires=WIRES), interface="torch")


@pytest.fixture(scope="module")
def read():
    return from_pennylane(NODE, 3, SHAPES)


@pytest.mark.parametrize("engine", ["torch", "native", ExactSampler()])
def test_a_layer_has_the_outputs_and_derivatives_of_its_qnode(read, engine):
    assert read.observables == [{"Z0X1": 1.0}, {"Y2": 0.5, "Z0": 1.0}, {"I": 1.0}]
    layer = QuantumLayer(read.ansatz, "expectations", engine, observables=read.observables)
    inputs = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(20, dtype=torch.float64, requires_grad=True)
    rows = [torch.stack(NODE(row, weights[:18].view(2, 3, 3), weights[18:])) for row in inputs]
    expected = torch.stack(rows)
    found = layer(inputs, weights)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    right = torch.autograd.grad(expected.square().sum(), (inputs, weights))
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), (inputs, weights)), right, atol=1e-9, rtol=0)


def test_probabilities_have_the_first_wire_as_their_lowest_bit():
    def turned(inputs):
        qml.RY(inputs[0], wires=0)
        qml.CNOT(wires=[0, 1])
        qml.RX(0.4, wires=2)
        return qml.probs(wires=[0, 1, 2])

    node = qml.QNode(turned, qml.device("default.qubit", wires=3))
    ansatz, observables = from_pennylane(node, 1)
    assert observables is None
    ours = QuantumLayer(ansatz)(torch.tensor([0.9]))
    np.testing.assert_allclose(ours.view(2, 2, 2).permute(2, 1, 0).flatten(), node(np.array([0.9])), atol=1e-6)


@pytest.mark.parametrize("name", GATES)
def test_each_gate_has_pennylanes_matrix(name):
    """Reading a circuit compares the matrices, of each gate and of the whole."""
    kind = getattr(qml, name)
    wires = list(range(kind.num_wires or 1))[::-1]

    def one(inputs=()):
        kind(*inputs[: kind.num_params], wires=wires if len(wires) > 1 else 0)

    ansatz, _ = from_pennylane(one, kind.num_params)
    assert (ansatz.num_qubits, ansatz.num_inputs) == (len(wires), kind.num_params)


def test_another_matrix_is_found(monkeypatch):
    monkeypatch.setitem(GATES, "RX", GATES["RY"])
    with pytest.raises(ValueError, match="Qiskit's matrix of RX on wires \\[0\\] is another than PennyLane's"):
        from_pennylane(lambda inputs: qml.RX(inputs[0], wires=0), 1)


def test_a_tape():
    tape = qml.tape.QuantumScript(
        [qml.RY(0.1, 0), qml.RX(0.2, 1), qml.CNOT([0, 1]), qml.RZ(0.3, 1), qml.RY(0.4, 1)],
        [qml.expval(qml.X(1))],
        trainable_params=[0, 2, 3],
    )
    ansatz, observables = from_pennylane(tape, inputs=[2])
    assert (ansatz.num_inputs, ansatz.num_weights) == (1, 2)
    layer = QuantumLayer(ansatz, "expectations", observables=observables, initial=[0.1, 0.4])
    assert layer(torch.tensor([0.3])).item() == pytest.approx(qml.execute([tape], qml.device("default.qubit"))[0])


def product(inputs):
    qml.RX(inputs[0] * inputs[1], wires=0)


def branch(inputs):
    (qml.RX if inputs[0] > 2 else qml.RY)(inputs[1], wires=0)


def longer(inputs):
    qml.RX(inputs[0], wires=0)
    if inputs[0] < 2:
        qml.RX(inputs[1], wires=0)


def measured(inputs):
    qml.RX(inputs[0] + inputs[1], wires=0)
    qml.measure(0)


def noisy(inputs):
    qml.RX(inputs[0] + inputs[1], wires=0)
    qml.DepolarizingChannel(0.1, wires=0)


def batch(inputs):
    qml.RX(inputs, wires=0)


def hermitian(inputs):
    qml.RX(inputs[0] + inputs[1], wires=0)
    return qml.expval(qml.Hermitian(np.eye(2), wires=0))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (product, r"an angle of RX on wires \[0\] is not linear in the arguments"),
        (branch, "its gates depend on the values of its arguments"),
        (longer, "its gates depend on the values of its arguments"),
        (measured, "has no gates; measurements before the end"),
        (noisy, r"DepolarizingChannel on wires \[0\] has no gates"),
        (batch, r"RX on wires \[0\] has a batch"),
        (hermitian, r"(?s)the observable .* is no sum of products of Paulis"),
        (3, "Invalid circuit: 3 \\(int\\); it must be a QNode"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_read_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        from_pennylane(function, 2)
