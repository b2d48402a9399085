"""Quantum parameters that are not trained are named, element by element; unobservable ones are exempt."""

import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from lightning_qsgd.comparison.recorder import QuantumParameters, unobservable_weights
from lightning_qsgd.quantum import Ansatz, QuantumLayer


def ansatz():
    """Two weights; the second one turns a qubit about Z after everything else: no probability depends on it."""
    x, w = ParameterVector("x", 1), ParameterVector("w", 2)
    circuit = QuantumCircuit(1)
    circuit.ry(x[0], 0)
    circuit.ry(w[0], 0)
    circuit.rz(w[1], 0)
    return Ansatz(circuit, inputs=list(x), weights=list(w))


def test_an_unobservable_weight_is_found():
    assert unobservable_weights(ansatz()).tolist() == [False, True]


def test_trained_parameters_give_no_finding():
    model = torch.nn.Sequential(QuantumLayer(ansatz(), "expectations"), torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checks = QuantumParameters()
    checks.begin(model, [optimizer])
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(3, 1)).sum().backward()
        checks.look()
        optimizer.step()
    checks.finish()
    expected = {"unregistered": [], "without_gradient": [], "unmoved": [], "unobservable": ["0.weights[1]"]}
    assert checks.summary() == {"quantum_parameters": 1} | expected


def test_forgotten_and_cut_off_parameters_are_named():
    model = torch.nn.ModuleDict({"circuit": QuantumLayer(ansatz()), "linear": torch.nn.Linear(1, 1)})
    checks = QuantumParameters()
    checks.begin(model, [torch.optim.SGD(model["linear"].parameters(), lr=0.1)])
    checks.look()
    checks.finish()
    assert checks.findings["unregistered"] == ["circuit.weights"]
    assert checks.findings["without_gradient"] == checks.findings["unmoved"] == ["circuit.weights[0]"]


def test_a_model_without_circuits_says_nothing():
    checks = QuantumParameters()
    checks.begin(torch.nn.Linear(1, 1), [])
    checks.finish()
    assert checks.summary() == {}
