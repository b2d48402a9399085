import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from scipy.stats import chisquare

from lightning_qsgd.optim import CircuitPerturbation, LiveCircuitPerturbation
from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    ExactSampler,
    FourierSurrogate,
    LightConeSurrogate,
    QuantumNetwork,
)


def shoot(circuit, angles, seed=0, key=(0,)):
    return circuit.single_shot(angles, np.random.default_rng(seed), key)


def joint(circuit):
    circuit.joint = True
    return circuit


@pytest.mark.parametrize(
    "circuit",
    [
        joint(CircuitPerturbation(num_qubits=3, depth=2)),
        joint(CircuitPerturbation(num_qubits=3, depth=2, rotations="random", decode_chain=True)),
        joint(CircuitPerturbation(num_qubits=3, depth=1, rotations="zero")),
        CircuitPerturbation(num_qubits=3, depth=2, entanglement="none", rotations="random"),
        joint(CircuitPerturbation(num_qubits=3, depth=2, entanglement="none", rotations="random")),
        LiveCircuitPerturbation(num_qubits=3, depth=2, max_circuits=2000),
    ],
    ids=["aligned", "random", "zero", "bit by bit", "jointly", "live"],
)
def test_bits_have_the_joint_distribution_of_the_circuit(circuit):
    angle = torch.tensor([[0.3, -0.9, 2.0]], dtype=torch.float64)
    shots = 2000 if isinstance(circuit, LiveCircuitPerturbation) else 20_000
    bits, mean = shoot(circuit, angle.expand(shots, -1))
    exact = QuantumNetwork(circuit.ansatz, ExactSampler()).probabilities(angle, circuit.weights)[0]
    table = (1 + circuit.matrix.numpy()) / 2  # of the measured bits y: each outcome's x
    torch.testing.assert_close(mean, torch.from_numpy(exact @ table).expand(shots, -1), atol=1e-9, rtol=0)
    code = np.array([1, 2, 4])
    expected = np.bincount((table @ code).astype(int), exact, minlength=8)
    counts = np.bincount((bits.numpy() @ code).astype(int), minlength=8)
    possible = expected > 1e-12
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], expected[possible] * shots / expected[possible].sum()).pvalue > 1e-3


def test_blocks_differ_and_the_generator_decides():
    circuit, angles = joint(CircuitPerturbation()), torch.zeros(500, 4)
    first, _ = shoot(circuit, angles)
    assert len(first.unique(dim=0)) == 16
    assert torch.equal(shoot(circuit, angles)[0], first)
    assert not torch.equal(shoot(circuit, angles, seed=1)[0], first)


def test_a_product_circuit_needs_only_its_marginals():
    circuit = CircuitPerturbation(num_qubits=12, entanglement="none")
    bits, mean = shoot(circuit, torch.randn(10, 12))
    assert bits.shape == mean.shape == (10, 12)
    assert isinstance(circuit.surrogate, LightConeSurrogate)
    assert circuit.circuits == 5


def test_a_joint_series_is_fitted_where_it_is_asked_for():
    circuit = joint(CircuitPerturbation(num_qubits=2, entanglement="none"))
    circuit.prepare()
    assert isinstance(circuit.surrogate, FourierSurrogate)


def test_a_live_shot_is_one_of_the_circuits_shots():
    circuit = LiveCircuitPerturbation(sampler=AerSampler(shots=1))
    angles = torch.randn(20, 4)
    bits, mean = shoot(circuit, angles)
    assert torch.equal(bits, mean)  # of one shot, the outcome is its own mean
    assert (circuit.circuits, circuit.shots) == (20, 20)
    assert torch.equal(shoot(circuit, angles)[0], bits)
    assert not torch.equal(shoot(circuit, angles, key=(1,))[0], bits)


def test_measured_hadamards_are_fair_coins_whatever_the_weights():
    circuit = QuantumCircuit(3)
    inputs = ParameterVector("x", 3)
    for qubit in range(3):
        circuit.rx(inputs[qubit], qubit)  # H sends X to Z: on the state of H gates it is a phase
    circuit = circuit.compose(_hadamards(3), front=True)
    network = QuantumNetwork(Ansatz(circuit, list(inputs)), ExactSampler())
    np.testing.assert_allclose(network.probabilities(np.random.default_rng(0).normal(0, 2, (20, 3))), 1 / 8, atol=1e-12)


def _hadamards(num_qubits):
    circuit = QuantumCircuit(num_qubits)
    circuit.h(range(num_qubits))
    return circuit
