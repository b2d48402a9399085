import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit_aer.noise import NoiseModel, ReadoutError, amplitude_damping_error

from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    CircuitSimulator,
    FourierSurrogate,
    LightConeSurrogate,
    QuantumNetwork,
    superposition_circuit,
)
from lightning_qsgd.quantum.light_cone import fit_smallest, light_cones, shared_axes
from lightning_qsgd.quantum.observables import expectation_matrix


def odd_parity(ansatz, points, weights, names):
    p = CircuitSimulator(ansatz)(points, torch.as_tensor(weights, dtype=torch.float64))
    return (1 - p @ expectation_matrix(names, ansatz.num_qubits)) / 2


def test_a_product_circuit_needs_as_many_circuits_as_one_qubit():
    ansatz, names = superposition_circuit(12, 2, "none"), [f"Z{q}" for q in range(12)]
    weights = np.random.default_rng(0).uniform(-3, 3, 36)
    network = QuantumNetwork(ansatz)
    surrogate = LightConeSurrogate.fit(network, weights, observables=names)
    assert network.circuits == surrogate.num_points == LightConeSurrogate.num_circuits(ansatz, names) == 5
    points = 3 * torch.randn(20, 12, dtype=torch.float64)
    torch.testing.assert_close(surrogate(points), odd_parity(ansatz, points, weights, names), atol=1e-10, rtol=0)


@st.composite
def local_ansatz(draw):
    n = draw(st.integers(2, 5))
    x = ParameterVector("x", n)
    circuit = QuantumCircuit(n)
    for q in range(n):
        circuit.h(q)
        circuit.ry(draw(st.integers(1, 2)) * x[q], q)
        circuit.rz(0.4 * q, q)
    for _ in range(draw(st.integers(0, 4))):
        a, b = draw(st.permutations(range(n)))[:2]
        getattr(circuit, draw(st.sampled_from(["cx", "cz", "swap"])))(a, b)
        circuit.rx(draw(st.sampled_from([0.3, x[b]])), b)
    return Ansatz(circuit, list(x))


@settings(max_examples=40, deadline=None)
@given(local_ansatz(), st.data())
def test_equal_to_the_simulator_for_any_local_circuit(ansatz, data):
    names = [f"Z{q}" for q in range(ansatz.num_qubits)] + ["Z0Z1"]
    names = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    surrogate = LightConeSurrogate.fit(QuantumNetwork(ansatz), observables=names)
    points = 3 * torch.randn(10, ansatz.num_inputs, dtype=torch.float64)
    torch.testing.assert_close(surrogate(points), odd_parity(ansatz, points, [], names), atol=1e-9, rtol=0)
    again = LightConeSurrogate.from_state_dict(surrogate.state_dict())
    assert torch.equal(again(points), surrogate(points))


def test_cones_follow_the_gates_back():
    x = ParameterVector("x", 4)
    circuit = QuantumCircuit(4)
    for q in range(4):
        circuit.ry(x[q], q)
    circuit.cx(0, 1)
    circuit.barrier()
    circuit.cx(2, 3)
    ansatz = Ansatz(circuit, list(x))
    assert light_cones(ansatz, ["Z0", "Z2", "Z1Z3"]) == [(0, 1), (2, 3), (0, 1, 2, 3)]
    assert shared_axes([(0, 1), (2, 3)], [3, 3, 3, 3]) == ([0, 1, 0, 1], (3, 3))
    assert shared_axes([(0, 1), (1, 2), (0, 2)], [3, 5, 3])[1] == (5, 3, 3)


def test_noise_that_stays_on_its_qubits_keeps_the_cones_and_the_predicted_variance():
    noise = NoiseModel()
    noise.add_all_qubit_quantum_error(amplitude_damping_error(0.1), ["ry"])
    noise.add_all_qubit_readout_error(ReadoutError([[0.9, 0.1], [0.2, 0.8]]))
    ansatz, names = superposition_circuit(3, 1, "none"), ["Z0", "Z1", "Z2"]
    points = torch.randn(200, 3, dtype=torch.float64)
    one = superposition_circuit(1, 1)
    truth = FourierSurrogate.fit(QuantumNetwork(one, AerSampler(shots=1_000_000, noise=noise)), [0.0])
    expected = torch.cat([truth(points[:, q : q + 1])[:, 1:] for q in range(3)], -1)
    scores = []
    for seed in range(20):
        network = QuantumNetwork(ansatz, AerSampler(shots=400, seed=seed, noise=noise))
        surrogate = LightConeSurrogate.fit(network, np.zeros(3), observables=names)
        assert surrogate.shots == 400
        scores.append((surrogate(points) - expected) / surrogate.variance(points).sqrt())
    assert torch.stack(scores).square().mean().sqrt() == pytest.approx(1, abs=0.15)


def test_the_smaller_grid_is_taken():
    full = fit_smallest(QuantumNetwork(superposition_circuit(3, 1)), np.zeros(3), ["Z0", "Z1", "Z2"])
    assert isinstance(full, FourierSurrogate)  # Z2's cone is everything: nothing to save
    small = fit_smallest(QuantumNetwork(superposition_circuit(3, 1, "none")), np.zeros(3), ["Z0", "Z1", "Z2"])
    assert isinstance(small, LightConeSurrogate)
    assert small.num_points == 3


def test_shared_points_are_averaged():
    """Z0 sees only 3 of the 9 settings that Z1Z2's cone needs: its shots are three times as many."""
    x = ParameterVector("x", 3)
    circuit = QuantumCircuit(3)
    for q in range(3):
        circuit.ry(x[q], q)
    circuit.cx(1, 2)
    network = QuantumNetwork(Ansatz(circuit, list(x)), AerSampler(shots=100))
    surrogate = LightConeSurrogate.fit(network, observables=["Z0", "Z2"])
    assert network.circuits == 9
    assert {tuple(outputs): part.shots for _, outputs, part in surrogate.parts} == {(0,): 300, (1,): 100}


def test_an_observable_without_inputs_is_a_constant():
    x = ParameterVector("x", 1)
    circuit = QuantumCircuit(2)
    circuit.ry(x[0], 0)
    circuit.x(1)
    surrogate = LightConeSurrogate.fit(QuantumNetwork(Ansatz(circuit, list(x))), observables=["Z1"])
    torch.testing.assert_close(surrogate(torch.randn(4, 1)), torch.ones(4, 1))


def test_outputs_of_one_input_each_are_summed_at_once():
    parts = []
    for own, outputs, terms in ((2, [1], 5), (0, [2, 0], 3), (1, [3], 1)):
        coefficients = torch.randn(terms, len(outputs), dtype=torch.float64)
        parts.append(([own], outputs, FourierSurrogate(coefficients)))
    surrogate = LightConeSurrogate(3, parts, num_points=5)
    inputs = torch.randn(50, 3, dtype=torch.float64)
    expected = torch.empty(50, 4, dtype=torch.float64)
    for (own,), outputs, series in parts:
        expected[:, outputs] = series(inputs[:, [own]])
    torch.testing.assert_close(surrogate(inputs), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(surrogate(inputs.float()), expected.float(), atol=1e-5, rtol=1e-5)
