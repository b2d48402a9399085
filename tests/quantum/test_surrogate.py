import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    CircuitSimulator,
    FourierSurrogate,
    QuantumNetwork,
    superposition_circuit,
)
from lightning_qsgd.quantum.surrogate import input_degrees


def test_equal_to_the_network_at_random_points():
    ansatz = superposition_circuit(4, 2)
    rng = np.random.default_rng(0)
    weights, points = rng.uniform(-np.pi, np.pi, 12), 3 * rng.normal(size=(40, 4))
    network = QuantumNetwork(ansatz)
    surrogate = FourierSurrogate.fit(network, weights)
    assert (network.circuits, surrogate.num_points) == (625, 625)
    np.testing.assert_allclose(surrogate(torch.from_numpy(points)), network.probabilities(points, weights), atol=1e-10)


@settings(max_examples=12)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["linear", "none"]), st.integers(0, 99))
def test_equal_to_the_simulator_for_any_size(num_qubits, depth, entanglement, seed):
    ansatz = superposition_circuit(num_qubits, depth, entanglement)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(ansatz.num_weights, dtype=torch.float64, generator=generator)
    points = 3 * torch.randn(20, num_qubits, dtype=torch.float64, generator=generator)
    surrogate = FourierSurrogate.fit(QuantumNetwork(ansatz), weights.numpy())
    torch.testing.assert_close(surrogate(points), CircuitSimulator(ansatz)(points, weights), atol=1e-10, rtol=0)


def test_from_shots_within_its_predicted_variance():
    ansatz = superposition_circuit(3, 2)
    weights = np.random.default_rng(1).uniform(-np.pi, np.pi, 9)
    points = torch.randn(200, 3, dtype=torch.float64)
    truth = CircuitSimulator(ansatz)(points, torch.from_numpy(weights))
    scores, unbiased = [], []
    for seed in range(8):
        surrogate = FourierSurrogate.fit(QuantumNetwork(ansatz, AerSampler(shots=512, seed=seed)), weights)
        assert surrogate.shots == 512
        scores.append((surrogate(points) - truth) / surrogate.variance(points).sqrt())
        unbiased.append(surrogate(points) - truth)
    scores = torch.stack(scores)
    assert abs(scores.mean()) < 0.15
    assert 0.85 < scores.std() < 1.15
    assert torch.stack(unbiased).mean().abs() < 1e-3


def test_predicted_variance_where_inputs_have_different_degrees():
    x = ParameterVector("x", 2)
    circuit = QuantumCircuit(2)
    circuit.ry(x[0], 0)
    circuit.ry(3 * x[1], 1)
    circuit.cx(0, 1)
    ansatz, points = Ansatz(circuit, list(x)), torch.randn(300, 2, dtype=torch.float64)
    truth = CircuitSimulator(ansatz)(points)
    scores = []
    for seed in range(20):
        surrogate = FourierSurrogate.fit(QuantumNetwork(ansatz, AerSampler(shots=512, seed=seed)))
        scores.append((surrogate(points) - truth) / surrogate.variance(points).sqrt())
    assert torch.stack(scores).square().mean().sqrt() == pytest.approx(1, abs=0.15)


def test_first_use_in_inference_mode_leaves_it_differentiable():
    surrogate = FourierSurrogate.fit(QuantumNetwork(superposition_circuit(3, 1)), np.zeros(3))
    with torch.inference_mode():
        surrogate(torch.zeros(1, 3))
    points = torch.zeros(1, 3, requires_grad=True)
    surrogate(points)[0, 0].backward()
    assert points.grad is not None


def test_first_use_in_a_transform_leaves_it_picklable():
    surrogate = FourierSurrogate.fit(QuantumNetwork(superposition_circuit(2, 1)), np.zeros(2))
    torch.func.jacrev(surrogate)(torch.zeros(1, 2))
    again = pickle.loads(pickle.dumps(copy.deepcopy(surrogate)))
    assert torch.equal(again(torch.ones(1, 2)), surrogate(torch.ones(1, 2)))


def test_exact_surrogate_has_no_variance():
    surrogate = FourierSurrogate.fit(QuantumNetwork(superposition_circuit(2, 1)), np.zeros(2))
    assert surrogate.variance(torch.randn(3, 2)).count_nonzero() == 0


def test_dtype_gradient_chunks_and_projection():
    ansatz = superposition_circuit(2, 2)
    surrogate = FourierSurrogate.fit(QuantumNetwork(ansatz), np.arange(6) / 3)
    points = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(surrogate, (points,))
    single = surrogate(points.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), surrogate(points), atol=1e-6, rtol=0)
    many = torch.randn(10_000, 2, dtype=torch.float64)  # more than one chunk
    torch.testing.assert_close(surrogate(many)[-5:], surrogate(many[-5:]))
    assert surrogate(torch.zeros(0, 2)).shape == (0, 4)
    matrix = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(surrogate.project(matrix)(points), surrogate(points) @ matrix)
    with pytest.raises(ValueError, match=r"Invalid inputs: torch.float32 of shape \(3,\)"):
        surrogate(torch.zeros(3))


def _ansatz(build):
    x = ParameterVector("x", 2)
    circuit = QuantumCircuit(2)
    build(circuit, x)
    return Ansatz(circuit, list(x))


def test_degrees_are_read_off_the_circuit():
    def build(circuit, x):
        circuit.rx(x[0], 0)
        circuit.rz(-3 * x[0], 0)
        circuit.cp(x[1], 0, 1)
        circuit.rzz(2 * x[1] - x[0], 0, 1)

    ansatz = _ansatz(build)
    assert input_degrees(ansatz) == [5, 3]
    network = QuantumNetwork(ansatz)
    points = np.random.default_rng(0).normal(size=(10, 2))
    surrogate = FourierSurrogate.fit(network)
    np.testing.assert_allclose(surrogate(torch.from_numpy(points)), network.probabilities(points), atol=1e-10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda c, x: (c.crx(x[0], 0, 1), c.rx(x[1], 0)), r"Input x\[0\] .* frequencies of 0.5, 1; .* needs integers"),
        (
            lambda c, x: (c.rx(0.5 * x[0], 0), c.rx(x[1], 0)),
            r"by the angle 0.5\*x\[0\], .* frequencies of 0.5; .* needs integers",
        ),
        (lambda c, x: c.rx(x[0] * x[1], 0), "not linear"),
    ],
)
def test_circuits_without_integer_frequencies_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        FourierSurrogate.fit(QuantumNetwork(_ansatz(build)))


def test_grids_beyond_the_limit_name_the_way_out():
    with pytest.raises(ValueError, match=r"78,125 grid points, more than 20,000.*LiveCircuitPerturbation"):
        FourierSurrogate.fit(QuantumNetwork(superposition_circuit(7, 2)), np.zeros(21))


def test_clipped_probabilities_are_a_distribution_and_the_clipped_mass_is_what_they_lost():
    ansatz = superposition_circuit(4, 2)
    surrogate = FourierSurrogate.fit(QuantumNetwork(ansatz, AerSampler(shots=64)), np.zeros(12))
    points = 0.1 * torch.randn(100, 4, dtype=torch.float64)
    raw, clipped = surrogate(points), surrogate.probabilities(points)
    assert raw.min() < 0 <= clipped.min()
    torch.testing.assert_close(raw.sum(-1), torch.ones(100, dtype=torch.float64))
    torch.testing.assert_close(clipped.sum(-1), torch.ones(100, dtype=torch.float64))
    torch.testing.assert_close(surrogate.clipped_mass(points), -raw.clamp(max=0).sum(-1))
    exact = FourierSurrogate.fit(QuantumNetwork(ansatz), np.zeros(12))
    assert exact.clipped_mass(points).max() < 1e-9


def test_samples_have_the_mean_variance_and_correlations_of_aers():
    """Multinomial shots from the series against independent shots of the simulator."""
    ansatz, weights, shots, repeats = superposition_circuit(2, 2), np.arange(6) / 2, 128, 3000
    point = np.array([[0.4, -1.1]])
    surrogate = FourierSurrogate.fit(QuantumNetwork(ansatz), weights)
    rows = torch.from_numpy(np.repeat(point, repeats, 0))
    ours = surrogate.sample(rows, shots, np.random.default_rng(0)).numpy()
    theirs = QuantumNetwork(ansatz, AerSampler(shots=shots)).probabilities(rows, weights)
    p = surrogate(rows[:1]).numpy()[0]
    error = np.sqrt(p * (1 - p) / shots / repeats)
    for sample in (ours, theirs):
        assert (np.abs(sample.mean(0) - p) < 4.5 * error).all()
        np.testing.assert_allclose(sample.var(0), p * (1 - p) / shots, rtol=0.15)
    np.testing.assert_allclose(np.corrcoef(ours.T), np.corrcoef(theirs.T), atol=0.09)
    np.testing.assert_allclose(ours * shots, np.rint(ours * shots), atol=1e-9)
    with pytest.raises(ValueError, match="Invalid shots: 0"):
        surrogate.sample(rows, 0, np.random.default_rng(0))


def test_samples_of_equal_seeds_are_equal():
    surrogate = FourierSurrogate.fit(QuantumNetwork(superposition_circuit(2, 1)), np.zeros(2))
    points = torch.randn(5, 2)
    first, second = (surrogate.sample(points, 10, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.float32


def test_nearly_20000_grid_points_in_bounded_memory():
    """3**9 = 19,683 points and 512 outcomes: run in parts of 4,096 circuits."""
    ansatz = superposition_circuit(9, 1)
    largest = []

    class Watched(QuantumNetwork):
        def probabilities(self, inputs, weights=None, *, step=None):
            largest.append(len(inputs))
            values = CircuitSimulator(ansatz)(torch.as_tensor(inputs), torch.as_tensor(np.asarray(weights)))
            return values.numpy()

    surrogate = FourierSurrogate.fit(Watched(ansatz), np.zeros(9))
    assert (surrogate.num_points, max(largest), sum(largest)) == (19_683, 4096, 19_683)
    points = torch.randn(5, 9, dtype=torch.float64)
    exact = CircuitSimulator(ansatz)(points, torch.zeros(9, dtype=torch.float64))
    torch.testing.assert_close(surrogate(points), exact, atol=1e-10, rtol=0)


def test_state_dict_brings_it_back():
    surrogate = FourierSurrogate.fit(QuantumNetwork(superposition_circuit(2, 1), AerSampler(shots=32)), np.zeros(2))
    again = FourierSurrogate.from_state_dict(surrogate.state_dict())
    assert again.shots == 32
    assert torch.equal(again.coefficients, surrogate.coefficients)


def test_predicted_variance_from_4_shots():
    """Unbiased from few shots, too: p (1 - p) / (shots - 1) of the measured frequencies."""
    truth = np.array([0.2, 0.5, 0.9])  # at the three points of a grid of degree 1
    counts = np.random.default_rng(0).binomial(4, truth, (3000, 3)) / 4
    fitted = [FourierSurrogate.from_grid(np.stack([row, 1 - row], -1), shots=4) for row in counts]
    points = torch.tensor([[0.7], [2.0]], dtype=torch.float64)
    found = torch.stack([surrogate(points) for surrogate in fitted]).var(0)
    predicted = torch.stack([surrogate.variance(points) for surrogate in fitted]).mean(0)
    torch.testing.assert_close(predicted, found, rtol=0.1, atol=0)  # p (1 - p) / 4 would be 0.75 of it
