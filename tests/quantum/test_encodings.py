"""Data as amplitudes, encodings by a function of one's own, and states that a circuit starts from."""

import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import SparsePauliOp, Statevector

from lightning_qsgd.quantum import (
    Ansatz,
    CircuitSimulator,
    ExactSampler,
    FourierSurrogate,
    NoisySimulator,
    PauliNoise,
    QuantumLayer,
    QuantumNetwork,
    named_circuit,
)
from lightning_qsgd.quantum.fingerprint import of_ansatz


@given(st.integers(1, 5), st.integers(0, 2**31), st.floats(1e-3, 1e3), st.integers(0, 31))
def test_amplitudes_are_the_vector_over_its_norm_with_its_signs_and_zeros(n, seed, norm, zeros):
    vector = torch.from_numpy(norm * np.random.default_rng(seed).normal(size=(1, 2**n)))
    vector[0, : min(zeros, 2**n - 1)] = 0
    found = CircuitSimulator(named_circuit("amplitude", num_qubits=n), amplitudes=True)(vector)
    torch.testing.assert_close(found, (vector / vector.norm()).to(found), atol=1e-13, rtol=0)


@pytest.mark.parametrize("engine", ["torch", "native", ExactSampler()])
def test_derivatives_of_amplitudes_are_those_of_the_normalised_vector(engine):
    vector = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    values = torch.arange(8.0).double()
    (QuantumLayer("amplitude", engine=engine, circuit={"num_qubits": 3})(vector) @ values).sum().backward()
    found, vector.grad = vector.grad, None
    ((vector / vector.norm(dim=1, keepdim=True)).square() @ values).sum().backward()
    torch.testing.assert_close(found, vector.grad, atol=1e-10, rtol=0)


def test_a_row_with_zeros_has_finite_derivatives_and_one_of_zeros_gives_outcome_0():
    rows = torch.tensor([[0.0, 0.0, 1.0, -2.0], [0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]], requires_grad=True)
    found = QuantumLayer("amplitude", circuit={"num_qubits": 2})(rows)
    expected = torch.tensor([[0, 0, 0.2, 0.8], [1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    torch.testing.assert_close(found.detach(), expected, atol=1e-6, rtol=0)
    found[:, 3].sum().backward()
    assert rows.grad.isfinite().all()
    torch.testing.assert_close(rows.grad[0], torch.tensor([0, 0, -0.32, -0.16]), atol=1e-6, rtol=0)


def test_amplitudes_before_any_layers_and_with_weights_of_each_row():
    options = {"num_qubits": 3, "encoding": "amplitude"}
    vector, weights = torch.randn(4, 8, dtype=torch.float64), torch.randn(4, 18, dtype=torch.float64)
    ansatz = named_circuit("ring", **options)
    bare = named_circuit("ring", **options | {"encoding": "none"})
    expected = np.stack(
        [
            Statevector((v / v.norm()).numpy()).evolve(bare.circuit.assign_parameters(w.numpy())).probabilities()
            for v, w in zip(vector, weights, strict=True)
        ]
    )
    for engine in ("torch", "native", ExactSampler()):
        layer = QuantumLayer(ansatz, engine=engine)
        inputs, by_row = vector.clone().requires_grad_(), weights.clone().requires_grad_()
        found = layer(inputs, by_row)
        np.testing.assert_allclose(found.detach(), expected, atol=1e-12)
        found[:, 5].sum().backward()
        if engine == "torch":
            right = inputs.grad, by_row.grad
        torch.testing.assert_close((inputs.grad, by_row.grad), right, atol=1e-10, rtol=0)


def squares(data):
    return torch.stack([data[:, 0] * data[:, 1], data.square().sum(1)], 1)


def example(encode=squares, num_inputs=3, **options):
    x, w = ParameterVector("x", 2), ParameterVector("w", 1)
    circuit = QuantumCircuit(2)
    circuit.ry(x[0] + w[0], 0)
    circuit.cx(0, 1)
    circuit.ry(x[0] * x[1], 1)
    return Ansatz(circuit, list(x), list(w), encode=encode, num_inputs=num_inputs, **options)


def test_a_function_of_ones_own_encodes_data_on_every_engine():
    ansatz, plain = example(), example(None, None)
    assert (ansatz.num_inputs, plain.num_inputs) == (3, 2)
    data, weights = torch.randn(5, 3, dtype=torch.float64), torch.randn(1, dtype=torch.float64)
    expected = CircuitSimulator(plain)(squares(data), weights)
    torch.testing.assert_close(CircuitSimulator(ansatz, engine="native")(data, weights), expected)
    torch.testing.assert_close(
        torch.from_numpy(QuantumNetwork(ansatz).probabilities(data, weights)), expected, atol=1e-12, rtol=0
    )
    torch.testing.assert_close(NoisySimulator(ansatz, PauliNoise())(data, weights), expected, atol=1e-10, rtol=0)
    jacobian = torch.func.jacrev(lambda d: CircuitSimulator(plain)(squares(d[None]), weights)[0])
    right = torch.stack([jacobian(row) for row in data])
    found, _ = QuantumNetwork(ansatz).jacobian(data, weights)
    np.testing.assert_allclose(found, right, atol=1e-10)


def test_the_function_belongs_to_the_circuit_and_its_copies():
    ansatz = example()
    again = pickle.loads(pickle.dumps(ansatz))
    data, weights = torch.randn(5, 3), torch.randn(1)
    assert torch.equal(CircuitSimulator(again)(data, weights), CircuitSimulator(ansatz)(data, weights))
    assert of_ansatz(ansatz) == of_ansatz(again) != of_ansatz(example(None, None))
    assert of_ansatz(ansatz) != of_ansatz(example(num_inputs=4))
    assert ansatz == again
    assert ansatz != example(num_inputs=4)


def test_a_function_that_is_wrong_or_incomplete_is_refused():
    for options in ({"num_inputs": None}, {"encode": None}, {"num_inputs": 0}):
        with pytest.raises(ValueError, match="Invalid encode: with num_inputs"):
            example(**options)
    with pytest.raises(ValueError, match=re.escape("returned (4, 3) for inputs (4, 3); it must return an angle for")):
        CircuitSimulator(example(torch.clone))(torch.zeros(4, 3), torch.zeros(1))
    with pytest.raises(ValueError, match=r"angles are computed by .*squares, so it has no Fourier series"):
        FourierSurrogate.fit(QuantumNetwork(example()), [0.1])


@pytest.mark.parametrize("complex_", [False, True])
def test_a_circuit_starts_from_any_state(complex_):
    layer = QuantumLayer("ring", "expectations", "native", circuit={"num_qubits": 3}, observables=["X0", "Z1Y2"])
    state = torch.randn(2, 2, 8, dtype=torch.complex128 if complex_ else torch.float64, requires_grad=True)
    inputs = torch.randn(2, 2, 3, dtype=torch.float64)
    found = layer(inputs, state=state)
    named = [*layer.ansatz.inputs, *layer.ansatz.weights]
    for k in range(4):
        values = [*inputs.view(4, 3)[k].tolist(), *layer.weights.tolist()]
        circuit = layer.ansatz.circuit.assign_parameters(dict(zip(named, values, strict=True)))
        psi = state.detach().view(4, 8)[k]
        evolved = Statevector((psi / psi.norm()).numpy()).evolve(circuit)
        right = [evolved.expectation_value(SparsePauliOp(label)).real for label in ("IIX", "YZI")]
        np.testing.assert_allclose(found.detach().view(4, 2)[k], right, atol=1e-7)
    found.sum().backward()
    assert (state.grad.conj() * state.detach()).real.sum(-1).abs().max() < 1e-10, "the norm does not matter"


def test_states_that_are_wrong_or_on_a_sampler_are_refused():
    layer = QuantumLayer("ring", circuit={"num_qubits": 2})
    for state in (torch.ones(3, 4), torch.ones(2, 8), torch.ones(2, 4, dtype=torch.int64)):
        with pytest.raises(ValueError, match=re.escape("it must be real or complex amplitudes, (2, 4)")):
            layer(torch.zeros(2, 2), state=state)
    sampled = QuantumLayer("ring", engine=ExactSampler(), circuit={"num_qubits": 2})
    with pytest.raises(ValueError, match="a sampler starts from 0"):
        sampled(torch.zeros(2, 2), state=torch.ones(2, 4))
    bare = QuantumLayer("ring", circuit={"num_qubits": 2, "encoding": "none"})
    assert bare(state=torch.ones(3, 4)).shape == (3, 4)
