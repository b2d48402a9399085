"""Shots of ShotSampler have Aer's distribution, and are drawn anew and again as Aer's here are."""

import pickle

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter
from qiskit.quantum_info import Statevector
from scipy.stats import chi2_contingency, chisquare

from lightning_qsgd.quantum import AerSampler, ExactSampler, QuantumNetwork, ShotSampler, superposition_circuit

ANSATZ = superposition_circuit(4, 2)
RNG = np.random.default_rng(0)
INPUTS, WEIGHTS = RNG.normal(size=(6, 4)), RNG.normal(size=12)


def test_frequencies_have_the_exact_distribution_and_aers():
    shots = 20_000
    exact = QuantumNetwork(ANSATZ, ExactSampler()).probabilities(INPUTS, WEIGHTS)
    drawn = QuantumNetwork(ANSATZ, ShotSampler(shots)).probabilities(INPUTS, WEIGHTS) * shots
    aer = QuantumNetwork(ANSATZ, AerSampler(shots)).probabilities(INPUTS, WEIGHTS) * shots
    assert chisquare(drawn.ravel(), (exact / exact.sum(-1, keepdims=True) * shots).ravel(), ddof=5).pvalue > 1e-3
    for one, other in zip(drawn, aer, strict=True):
        assert chi2_contingency(np.stack([one, other]) + 0.5).pvalue > 1e-3


def test_noise_is_new_in_each_call_and_follows_seed_and_step():
    def run(sampler, *steps):
        network = QuantumNetwork(ANSATZ, sampler)
        return [network.probabilities(INPUTS, WEIGHTS, step=step) for step in steps]

    first, second, again, other = run(ShotSampler(100), None, None, 3, 3)
    assert (first != second).any()
    assert (again == other).all()
    assert (run(ShotSampler(100), 3)[0] == again).all()
    assert (run(ShotSampler(100, seed=1), 3)[0] != again).any()
    sampler = ShotSampler(100)
    run(sampler, None)
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.noise_position == sampler.noise_position == (0, 1)
    assert (run(copy, None)[0] == second).all()


def test_registers_get_the_bits_of_the_qubits_that_were_measured():
    angle = Parameter("a")
    qubits, low, high = QuantumRegister(10), ClassicalRegister(3, "low"), ClassicalRegister(9, "high")
    circuit = QuantumCircuit(qubits, low, high)
    circuit.x([1, 9])
    circuit.ry(angle, 4)
    circuit.measure([9, 0, 1], low)
    circuit.measure([4], [high[8]])
    data = ShotSampler(2000).run([(circuit, [[0.0], [np.pi], [np.pi / 2]])]).result()[0].data
    assert data.low.shape == data.high.shape == (3,)
    assert data.low.get_counts(0) == {"101": 2000}
    assert data.high.get_counts(0) == {"000000000": 2000}
    assert data.high.get_counts(1) == {"100000000": 2000}
    assert abs(data.high.get_counts(2)["100000000"] - 1000) < 150


def test_shots_are_exchangeable():
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    bits = ShotSampler(1000).run([circuit]).result()[0].data.meas.array.ravel()
    assert abs(bits[:500].mean() - 0.5) < 0.1, "not sorted"
    changes = (np.diff(bits.astype(int)) != 0).mean()
    assert abs(changes - 0.5) < 0.1


def test_many_qubits_in_chunks(monkeypatch):
    monkeypatch.setattr("lightning_qsgd.quantum.samplers.MAX_NUMBERS", 2**13)
    circuit = QuantumCircuit(12)
    for q in range(12):
        circuit.ry(0.2 * q, q)
    circuit.measure_all()
    shots = 50_000
    result = ShotSampler(shots).run([(circuit, np.zeros((3, 0)))]).result()[0]
    ones = np.unpackbits(result.data.meas.array.view(np.uint8), axis=-1)[..., ::-1].mean(1)[:, :12]
    np.testing.assert_allclose(ones, np.tile(np.sin(0.1 * np.arange(12)) ** 2, (3, 1)), atol=6 * 0.5 / np.sqrt(shots))
    assert Statevector(circuit.remove_final_measurements(inplace=False)).num_qubits == 12


@pytest.mark.parametrize(
    ("options", "message"), [({"shots": 0}, "Invalid shots: 0"), ({"seed": -1}, "Invalid seed: -1")]
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        ShotSampler(**options)
