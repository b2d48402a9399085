import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import Statevector

from lightning_qsgd.quantum import Ansatz, CircuitSimulator, superposition_circuit
from lightning_qsgd.quantum.stages import compile_stages

FIXED, ROTATIONS = ["h", "x", "y", "z", "s", "sdg", "t", "tdg", "sx"], ["rx", "ry", "rz", "p", "rzz", "cp"]
PAIRS = ["cx", "cz", "swap", "rzz", "cp"]


@st.composite
def random_ansatz(draw):
    n = draw(st.integers(1, 4))
    x, w = ParameterVector("x", 2), ParameterVector("w", 2)
    circuit = QuantumCircuit(n)
    for q in range(n):
        circuit.h(q)
    circuit.ry(x[0] - w[0], 0)
    circuit.rx(2 * x[1] + 0.5 * w[1] + 0.3, n - 1)
    for _ in range(draw(st.integers(0, 25))):
        name = draw(st.sampled_from(FIXED + ROTATIONS[:4] + (PAIRS if n > 1 else [])))
        qubits = draw(st.permutations(range(n)))[: 2 if name in PAIRS else 1]
        angle = [draw(st.sampled_from([x[0], -x[1], w[0] + 1, 3 * w[1] - x[0], 0.7]))] if name in ROTATIONS else []
        getattr(circuit, name)(*angle, *qubits)
    circuit.barrier()
    circuit.global_phase = draw(st.sampled_from([0, 0.3, x[1] - 0.2]))
    return Ansatz(circuit, list(x), list(w))


@given(random_ansatz(), st.integers(0, 1000))
def test_equal_to_the_statevector(ansatz, seed):
    rng = np.random.default_rng(seed)
    inputs, weights = rng.normal(size=(3, 2)), rng.normal(size=2)
    expected = [
        Statevector(ansatz.circuit.assign_parameters(dict(zip(ansatz.inputs + ansatz.weights, [*row, *weights]))))
        for row in inputs
    ]
    ours = CircuitSimulator(ansatz)(torch.from_numpy(inputs), torch.from_numpy(weights))
    np.testing.assert_allclose(ours, [state.probabilities() for state in expected], atol=1e-12)
    amplitudes = CircuitSimulator(ansatz, amplitudes=True)(torch.from_numpy(inputs), torch.from_numpy(weights))
    np.testing.assert_allclose(amplitudes, [state.data for state in expected], atol=1e-12)


def test_differentiable_twice_in_inputs_and_weights():
    simulate = CircuitSimulator(superposition_circuit(2, 2))
    inputs = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(simulate, (inputs, weights))
    assert torch.autograd.gradgradcheck(simulate, (inputs, weights))


def test_dtype_weights_per_row_and_empty_batch():
    simulate = CircuitSimulator(superposition_circuit(2, 2))
    inputs, weights = torch.randn(3, 2), torch.randn(3, 6)
    assert simulate(inputs, weights).dtype == torch.float32
    each = torch.cat([simulate(x[None], w) for x, w in zip(inputs, weights, strict=True)])
    torch.testing.assert_close(simulate(inputs, weights), each)
    assert simulate(torch.zeros(0, 2), weights[0]).shape == (0, 4)
    amplitudes = CircuitSimulator(superposition_circuit(2, 2), amplitudes=True)
    assert amplitudes(inputs, weights).dtype == torch.complex64
    assert amplitudes(torch.zeros(0, 2), weights[0]).shape == (0, 4)


def test_invalid_use_is_refused():
    with pytest.raises(ValueError, match=r"13 qubits; the torch engine takes at most 12\..* A sampler takes up to 24"):
        CircuitSimulator(superposition_circuit(13, 1))
    simulate = CircuitSimulator(superposition_circuit(2, 1))
    with pytest.raises(ValueError, match=r"Invalid inputs: torch.float32 of shape \(1, 3\)"):
        simulate(torch.zeros(1, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="Invalid weights"):
        simulate(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"Invalid inputs: torch\.int64"):
        simulate(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(2))
    for weights in (torch.zeros(2).double(), torch.zeros(3, 2), torch.zeros(1, 1, 2)):
        with pytest.raises(ValueError, match="Invalid weights"):
            simulate(torch.zeros(2, 2), weights)


def test_the_papers_circuit_needs_five_stages():
    """Fused: real gates, chain, phases, real gates, chain; without fusion it is 22 gates."""
    assert [type(stage).__name__ for stage in compile_stages(superposition_circuit(4, 2).normal_form)] == [
        "RealStage", "PermutationStage", "PhaseStage", "RealStage", "PermutationStage",
    ]  # fmt: skip


def test_pickles_and_serves_inference_mode_first():
    simulate = CircuitSimulator(superposition_circuit(2, 1))
    inputs, weights = torch.zeros(1, 2, requires_grad=True), torch.zeros(2)
    with torch.inference_mode():
        simulate(inputs, weights)
    simulate(inputs, weights)[0, 0].backward()
    assert inputs.grad is not None
    torch.testing.assert_close(pickle.loads(pickle.dumps(simulate))(inputs, weights), simulate(inputs, weights))


def test_transforms_of_torch_func_may_be_nested_and_leave_nothing_behind():
    simulator = CircuitSimulator(superposition_circuit(2, 1))
    weights, x = torch.zeros(2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)

    def probabilities(x):
        return simulator(x[None], weights)[0]

    assert torch.func.jacrev(torch.func.jacrev(probabilities))(x).shape == (4, 2, 2)
    twin = torch.autograd.functional.jacobian(probabilities, x)
    torch.testing.assert_close(torch.func.jacrev(probabilities)(x), twin)
