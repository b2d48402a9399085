"""Circuits whose split is known, and brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from lightning_qsgd.quantum import (
    Ansatz,
    FourierSurrogate,
    LightConeSurrogate,
    QuantumNetwork,
    modulation_matrix,
    superposition_circuit,
)
from lightning_qsgd.quantum.fourier import split_samples
from lightning_qsgd.quantum.observables import expectation_matrix

GENERATOR = torch.Generator().manual_seed(0)


def modulation(ansatz, weights, decode_chain=False):
    return FourierSurrogate.fit(QuantumNetwork(ansatz), weights).project(
        modulation_matrix(ansatz.num_qubits, decode_chain)
    )


def shares(split):
    return [getattr(split, name).tolist() for name in ("constant", "single", "multi")]


def uniform(count, n):
    return torch.rand(count, n, dtype=torch.float64, generator=GENERATOR) * 2 * torch.pi


def test_joint_outcomes_of_a_product_circuit_have_multi_angle_power():
    """Of (1 + cos a)(1 + cos b) / 4: constant 1/16, single 1/16, multi 1/64. All of <Z0 Z1> = cos a cos b."""
    angles, circuit = ParameterVector("a", 2), QuantumCircuit(2)
    circuit.ry(angles[0], 0)
    circuit.ry(angles[1], 1)
    series = FourierSurrogate.fit(QuantumNetwork(Ansatz(circuit, list(angles))))
    for share, value in zip(shares(series.split()), (4 / 9, 4 / 9, 1 / 9), strict=True):
        assert share == pytest.approx([value] * 4)
    assert series.project(expectation_matrix(["Z0Z1"], 2)).split().multi.item() == pytest.approx(1)


@pytest.mark.parametrize("samples", [None, uniform(4000, 3), 0.1 * uniform(4000, 3)])
def test_a_product_circuit_has_no_multi_angle_power(samples):
    ansatz = superposition_circuit(3, 2, "none")
    split = modulation(ansatz, np.random.default_rng(0).uniform(-3, 3, 9)).split(samples)
    assert split.multi.max() < 1e-9
    assert split.single.max() > 1e-3


def test_zero_rotations_are_all_constant_at_small_angles():
    """s = -1 + O(a^2): the paper's literal circuit at depth 2 is a learning-rate factor."""
    split = modulation(superposition_circuit(4, 2), np.zeros(12)).split(0.02 * uniform(1000, 4))
    assert split.constant.min() > 0.99


@pytest.mark.parametrize("samples", [None, uniform(20_000, 3)])
def test_a_parity_is_all_multi_angle(samples):
    """cos a cos b cos c, read as the parity of three qubits."""
    x = ParameterVector("x", 3)
    circuit = QuantumCircuit(3)
    for q in range(3):
        circuit.rx(x[q], q)
    circuit.cx(0, 1)
    circuit.cx(1, 2)
    split = modulation(Ansatz(circuit, list(x)), None).split(samples)
    assert split.multi[2] > 0.99
    assert split.single[0] > 0.99


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_uniform_angles_from_coefficients_equal_the_average_over_a_fine_grid(seed):
    rng = np.random.default_rng(seed)
    series = FourierSurrogate(torch.from_numpy(rng.normal(size=(3, 5, 2))))
    grid = torch.cartesian_prod(*[2 * torch.pi * torch.arange(12, dtype=torch.float64) / 12] * 2)
    exact, brute = series.split(), series.split(grid)
    for ours, theirs in zip(exact, brute):
        torch.testing.assert_close(ours, theirs)
    for total in torch.stack(exact[:3]).sum(0):
        assert total == pytest.approx(1)


def test_dependent_angles_are_split_by_projection():
    """cos(a + b) needs both angles, but where b = a it is cos 2a, a function of one."""
    coefficients = torch.zeros(5, 5, 1, dtype=torch.float64)
    coefficients[1, 1], coefficients[2, 2] = 1, -1
    series, a = FourierSurrogate(coefficients), uniform(500, 1)
    assert series.split().multi.item() == pytest.approx(1)
    split = series.split(a.expand(-1, 2))
    assert split.multi.item() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(split.total, (2 * a).cos().square().mean(0))


def test_light_cone_surrogates_split_as_full_ones():
    ansatz, weights = superposition_circuit(3, 2, "none"), np.arange(9.0)
    cones = LightConeSurrogate.fit(QuantumNetwork(ansatz), weights, observables=["Z0", "Z1", "Z2"])
    samples = uniform(500, 3)
    full = modulation(ansatz, weights).split(samples)
    for ours, theirs in zip(cones.split(samples), full):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-6)


def test_an_output_of_zero_and_too_few_samples():
    split = FourierSurrogate(torch.zeros(3, 1)).split()
    assert shares(split) == [[0], [0], [0]]
    with pytest.raises(ValueError, match=r"Invalid samples: 5 rows; a split of this series needs 50 or more"):
        split_samples(torch.zeros(5, 1), torch.zeros(5, 1), [5])
