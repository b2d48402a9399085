"""Pauli noise in training, against Qiskit Aer's density matrices."""

import re

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from qiskit.quantum_info import Kraus, Operator, SuperOp
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, depolarizing_error, pauli_error

from lightning_qsgd.quantum import AerSampler, Ansatz, NoisySimulator, PauliNoise, QuantumLayer, named_circuit
from lightning_qsgd.quantum.noise import BASIS

ROWS = 20_000


def aers(ansatz, inputs, weights, model, flips=(0, 0)):
    """The noisy circuit's probabilities (2**n,) by a density matrix; the readout's errors by their matrix."""
    circuit = ansatz.normal_form.circuit()
    circuit.remove_final_measurements()
    circuit = transpile(circuit, basis_gates=list(BASIS), optimization_level=1, seed_transpiler=0)
    values = zip([*ansatz.inputs, *ansatz.weights], [*inputs.tolist(), *weights.tolist()], strict=True)
    circuit = circuit.assign_parameters(dict(values))
    circuit.save_density_matrix()
    state = AerSimulator(method="density_matrix", noise_model=model).run(circuit).result().data()["density_matrix"]
    one = np.array([[1 - flips[0], flips[1]], [flips[0], 1 - flips[1]]])
    read = np.eye(1)
    for _ in range(ansatz.num_qubits):
        read = np.kron(read, one)
    return read @ np.asarray(state).diagonal().real


def assert_mean(found, expected):
    """The mean of draws (rows, outcomes) is the expected one, within 5 standard errors."""
    error = found.double().std(0) / len(found) ** 0.5
    assert ((found.double().mean(0) - torch.as_tensor(expected)).abs() <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("engine", ["torch", "native"])
@pytest.mark.parametrize("circuit", ["ring", "zz_feature_map", "su4_staircase"])
def test_the_mean_is_that_of_aers_depolarized_density_matrix(circuit, engine):
    ansatz = named_circuit(circuit, num_qubits=3)
    model = NoiseModel(basis_gates=list(BASIS))
    model.add_all_qubit_quantum_error(depolarizing_error(0.03, 1), ["sx", "x"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.03, 2), ["cx"])
    inputs, weights = torch.randn(3), torch.randn(ansatz.num_weights)
    simulator = NoisySimulator(ansatz, PauliNoise(depolarizing=0.03, readout=(0.05, 0.1)), engine)
    found = simulator(inputs.expand(ROWS, 3), weights)
    expected = aers(ansatz, inputs, weights, model, flips=(0.05, 0.1))
    assert_mean(found, expected)
    exact = aers(ansatz, inputs, weights, None)
    assert np.abs(expected - exact).max() > 10 * float(found.std(0).max()) / ROWS**0.5  # the test sees the noise


def test_all_channels_together_are_one_after_the_other():
    ansatz, noise = named_circuit("ring", num_qubits=2), PauliNoise(0.02, 0.03, 0.2)
    model = NoiseModel(basis_gates=list(BASIS))
    damping, keep = 0.2, (1 - 0.2) ** 0.5
    twirl = pauli_error(
        [("X", damping / 4), ("Y", damping / 4), ("Z", (1 - keep) ** 2 / 4), ("I", (1 + keep) ** 2 / 4)]
    )
    own = pauli_error([("Z", 0.03), ("I", 0.97)]).compose(twirl)
    model.add_all_qubit_quantum_error(depolarizing_error(0.02, 1).compose(own), ["sx", "x"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.02, 2).compose(own.tensor(own)), ["cx"])
    inputs, weights = torch.randn(2), torch.randn(ansatz.num_weights)
    found = NoisySimulator(ansatz, noise, "native")(inputs.expand(ROWS, 2), weights)
    assert_mean(found, aers(ansatz, inputs, weights, model))


def test_damping_is_the_twirl_of_amplitude_damping():
    """Right value: amplitude damping between each Pauli and itself, averaged."""
    damping = 0.3
    channel = SuperOp(Kraus([np.diag([1, (1 - damping) ** 0.5]), np.array([[0, damping**0.5], [0, 0]])]))
    paulis = [SuperOp(Operator.from_label(label)) for label in "IXYZ"]
    twirled = sum((pauli @ channel @ pauli).data for pauli in paulis) / 4
    ours = PauliNoise(twirled_amplitude_damping=damping).probabilities(1)
    order = [0, 1, 3, 2]  # I, X, Z, XZ
    np.testing.assert_allclose(sum(p * paulis[k].data for p, k in zip(ours, order, strict=True)), twirled, atol=1e-12)


def test_without_errors_it_is_the_circuit():
    ansatz = named_circuit("ring", num_qubits=3)
    inputs, weights = torch.randn(4, 3), torch.randn(ansatz.num_weights)
    exact = QuantumLayer(ansatz)(inputs, weights)
    torch.testing.assert_close(NoisySimulator(ansatz, PauliNoise())(inputs, weights), exact, atol=2e-6, rtol=0)


def test_a_router_s_ancillas_are_left_out():
    x, circuit = Parameter("x"), QuantumCircuit(3)
    circuit.ry(x, 0)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        circuit.cx(a, b)
    line = [[0, 1], [1, 2], [2, 3], [3, 4]]
    routed = transpile(circuit, basis_gates=list(BASIS), coupling_map=line, initial_layout=[0, 2, 4], seed_transpiler=1)
    ansatz = Ansatz(routed, [x])
    assert ansatz.normal_form.num_qubits > 3
    found = NoisySimulator(ansatz, PauliNoise())(torch.full((2, 1), 0.7))
    torch.testing.assert_close(found, QuantumLayer(ansatz)(torch.full((2, 1), 0.7)), atol=2e-6, rtol=0)


def layer(**options):
    return QuantumLayer("ring", "expectations", circuit={"num_qubits": 3}, initial=torch.ones(18), **options)


def test_a_layer_draws_errors_for_each_row_and_call_and_its_gradients_are_those_of_its_draw():
    noisy = layer(noise={"depolarizing": 0.05}, observables=["Z0", "X1Y2"])
    inputs = torch.zeros(64, 3, requires_grad=True)
    torch.manual_seed(1)
    first = noisy(inputs)
    assert len(first[:, 0].unique()) > 5
    assert not torch.equal(noisy(inputs), first)
    torch.manual_seed(1)
    again = noisy(inputs)
    assert torch.equal(again, first)
    again[:, 1].sum().backward()
    step, shifted = 1e-2, []
    for sign in (1, -1):
        torch.manual_seed(1)
        shifted.append(noisy(inputs.detach() + sign * step * torch.tensor([1.0, 0, 0]))[:, 1].detach())
    torch.testing.assert_close(inputs.grad[:, 0], (shifted[0] - shifted[1]) / (2 * step), atol=1e-3, rtol=1e-2)
    assert noisy.eval()(inputs)[:, 0].unique().numel() > 5  # a device is noisy in evaluation, too


def test_a_noisy_layer_is_named_and_loads_the_weights_of_an_exact_one():
    noisy, exact = layer(noise=PauliNoise(readout=0.02)), layer()
    assert (noisy.engine_name, exact.engine_name) == ("NoisySimulator", "simulator")
    noisy.load_state_dict(exact.state_dict())
    inputs = torch.randn(4, 3)
    torch.testing.assert_close(noisy(inputs), 0.96 * exact(inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"depolarising": 0.1}, "Invalid noise: 'depolarising'; close: depolarizing"),
        ({"depolarizing": 1.1}, "Invalid depolarizing: 1.1; it must be between 0 and 1"),
        ({"readout": [0.1, 2]}, "Invalid readout: (0.1, 2)"),
        ({"dephasing": [0.1, 0.1]}, "Invalid dephasing: (0.1, 0.1)"),
        ({"dephasing": float("nan")}, "Invalid dephasing: nan"),
        (0.1, "Invalid noise: 0.1; write for example {'depolarizing': 0.01}"),
    ],
)
def test_invalid_noise_is_refused(noise, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(noise=noise)


def test_a_sampler_has_its_own_noise():
    with pytest.raises(ValueError, match=re.escape("AerSampler(noise=...)")):
        layer(noise={"readout": 0.1}, engine=AerSampler())
