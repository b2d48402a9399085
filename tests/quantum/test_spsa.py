"""Gradients from few circuits."""

import numpy as np
import pytest
import torch

from lightning_qsgd.quantum import AerSampler, ExactSampler, QuantumLayer, QuantumNetwork, SPSANetwork, named_circuit

ANSATZ = named_circuit("ring", num_qubits=2, depth=1)


def test_the_mean_of_many_estimates_is_the_derivative():
    inputs, weights = np.array([[0.4, -1.0]]), np.linspace(-1, 1, 6)
    exact = QuantumNetwork(ANSATZ).jacobian(inputs, weights)
    network = SPSANetwork(ANSATZ, ExactSampler(), repeats=1000, step=0.05)
    found = network.jacobian(inputs, weights)
    for ours, right in zip(found, exact, strict=True):
        np.testing.assert_allclose(ours, right, atol=0.08)  # 5 standard errors
    assert network.circuits == 2000


def test_what_is_not_asked_stays_and_gets_no_derivative():
    network, inputs, weights = SPSANetwork(ANSATZ, repeats=3), np.zeros((2, 2)), np.ones(6)
    by_inputs, by_weights = network.jacobian(inputs, weights, of="weights")
    assert (by_inputs.shape, by_weights.shape) == ((2, 4, 2), (2, 4, 6))
    assert not by_inputs.any()
    assert by_weights.any()
    assert not network.jacobian(inputs, weights, of="inputs")[1].any()


def test_one_weight_alone_is_a_central_difference():
    ansatz = named_circuit("ring", num_qubits=1, depth=1, gates=["rx"], encoding="none")
    slope = SPSANetwork(ansatz, step=0.1).jacobian(np.zeros((1, 0)), [0.7])[1][0, 0, 0]
    assert slope == pytest.approx((np.cos(0.4) ** 2 - np.cos(0.3) ** 2) / 0.2)


def test_a_layer_learns_with_two_circuits_a_row():
    torch.manual_seed(0)
    layer = QuantumLayer(ANSATZ, "expectations", SPSANetwork(ANSATZ, AerSampler(shots=64)), observables=["Z0", "X1"])
    exact = QuantumLayer(ANSATZ, "expectations", observables=["Z0", "X1"])
    inputs = torch.randn(16, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        (layer(inputs) + 0.5).square().mean().backward()
        optimizer.step()
        losses.append((exact(inputs, layer.weights.detach()) + 0.5).square().mean().item())
    assert losses[-1] < 0.7 * losses[0]
    assert layer.circuits == 30 * layer.circuits_for(16, "weights") == 30 * 16 * 3


def test_directions_come_from_torchs_generator_and_rows_have_their_own():
    network, inputs, weights = SPSANetwork(ANSATZ), np.zeros((8, 2)), np.ones(6)
    torch.manual_seed(1)
    first = network.jacobian(inputs, weights)
    torch.manual_seed(1)
    again, other = network.jacobian(inputs, weights), network.jacobian(inputs, weights)
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    assert len(np.unique(first[1][:, 0].round(9), axis=0)) > 1


@pytest.mark.parametrize(
    ("options", "message"), [({"repeats": 0}, "Invalid repeats: 0"), ({"step": 0}, "Invalid step")]
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SPSANetwork(ANSATZ, **options)
