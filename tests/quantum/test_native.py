"""The native engine is the torch engine, faster: numbers, gradients, and what it hands over."""

import copy
import math
import multiprocessing
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import Statevector

from lightning_qsgd.quantum import Ansatz, CircuitSimulator, layered_circuit, superposition_circuit
from lightning_qsgd.quantum.native_rows import PHASES
from tests.quantum.any_circuit import cases, group

pytest.importorskip("numba")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def phased_circuit(num_qubits):
    """Gates whose phases depend on inputs and on weights, products of both, and permutations between them."""
    x, w = ParameterVector("x", num_qubits), ParameterVector("w", 2 * num_qubits)
    circuit = QuantumCircuit(num_qubits)
    for q in range(num_qubits):
        circuit.h(q)
        circuit.rz(x[q] + w[q], q)
    for q in range(num_qubits - 1):
        circuit.cp(x[q] * w[q], q, q + 1)
        circuit.cx(q + 1, q)
        circuit.swap(q, num_qubits - 1)
    for q in range(num_qubits):
        circuit.rx(w[num_qubits + q], q)
        circuit.rz(w[q], q)
        circuit.sx(q)
        circuit.y(q)
    return Ansatz(circuit, list(x), list(w))


def separate_circuit(num_qubits):
    """Even qubits and odd qubits without a gate between them, and an input that all share."""
    x, w = ParameterVector("x", num_qubits), ParameterVector("w", num_qubits)
    circuit = QuantumCircuit(num_qubits)
    for q in range(num_qubits):
        circuit.ry(x[q] + w[q], q)
        circuit.rx(x[0] * w[q], q)
    for q in range(num_qubits - 2):
        circuit.cx(q, q + 2)
    circuit.barrier()
    return Ansatz(circuit, list(x), list(w))


CIRCUITS = {
    "superposition": lambda n: superposition_circuit(n, 3),
    "layered": lambda n: layered_circuit(n, 2),
    "phases": phased_circuit,
    "separate": separate_circuit,
    "alone": lambda n: layered_circuit(n, 2, entanglement="none"),
}


def native(ansatz):
    return CircuitSimulator(ansatz, engine="native")


def both(ansatz):
    return native(ansatz), CircuitSimulator(ansatz)


def arguments(ansatz, batch, dtype, by_row, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()

    weights = draw(*([batch] if by_row else []), ansatz.num_weights)
    return draw(batch, ansatz.num_inputs), weights, torch.randn(batch, 2**ansatz.num_qubits, dtype=dtype)


def numbers(simulate, inputs, weights, grad):
    out = simulate(inputs, weights)
    return [out, *torch.autograd.grad(out, (inputs, weights), grad)]


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CIRCUITS)
def test_probabilities_and_gradients_are_those_of_the_torch_engine(name, dtype, by_row):
    for num_qubits, batch in [(1, 1), (2, 17), (3, 5), (4, 1), (4, 16), (5, 7), (6, 33), (8, 2), (9, 9)]:
        ansatz = CIRCUITS[name](num_qubits)
        given = arguments(ansatz, batch, dtype, by_row)
        for found, expected in zip(*(numbers(simulate, *given) for simulate in both(ansatz)), strict=True):
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype] * scale, rtol=0)


@settings(max_examples=40)
@given(st.data(), st.sampled_from([1, 3, 16, 20]))
def test_any_circuit(data, batch):
    case = data.draw(cases(group(data.draw(st.integers(0, 19)))))
    ansatz = Ansatz(case.circuit, case.inputs, case.weights)
    given = arguments(ansatz, batch, torch.float64, by_row=data.draw(st.booleans()))
    for found, expected in zip(*(numbers(simulate, *given) for simulate in both(ansatz)), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9, equal_nan=True)


def test_more_qubits_than_the_torch_engine_takes():
    ansatz = layered_circuit(14, 2)
    (inputs, weights, _), simulate = arguments(ansatz, 2, torch.float64, False), native(ansatz)
    named = [*ansatz.inputs, *ansatz.weights]
    for row, found in zip(inputs.detach(), simulate(inputs, weights).detach(), strict=True):
        bound = ansatz.circuit.assign_parameters(dict(zip(named, [*row.tolist(), *weights.tolist()], strict=True)))
        np.testing.assert_allclose(found, Statevector(bound).probabilities(), atol=1e-12)
    grad = torch.randn(2, 2**14, dtype=torch.float64)
    (by_weights,) = torch.autograd.grad(simulate(inputs, weights), weights, grad)
    step, moved = 1e-6, torch.randn_like(weights)
    ends = [(simulate(inputs, weights + sign * step * moved) * grad).sum() for sign in (1, -1)]
    assert float(by_weights @ moved) == pytest.approx(float((ends[0] - ends[1]) / (2 * step)), abs=1e-7)
    with pytest.raises(ValueError, match="14 qubits; the torch engine takes at most 12"):
        torch.autograd.grad(simulate(inputs, weights).sum(), weights, create_graph=True)


def test_too_many_qubits_name_their_memory():
    with pytest.raises(ValueError, match=r"21 qubits; a row would need 0\.1 GiB; the native engine takes at most 20"):
        native(layered_circuit(21, 1))
    advice = re.escape("13 qubits; the torch engine takes at most 12. engine='native' takes up to 20")
    with pytest.raises(ValueError, match=advice):
        CircuitSimulator(layered_circuit(13, 1))


def test_memory_does_not_grow_with_the_depth():
    kept = []
    for depth in (2, 16):
        ansatz = layered_circuit(8, depth)
        inputs, weights, _ = arguments(ansatz, 32, torch.float32, False)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            native(ansatz)(inputs, weights)
        kept.append(sum(tensor.nbytes for tensor in saved))
    assert kept[1] < 1.6 * kept[0]


def test_second_derivatives_and_transforms():
    ansatz = superposition_circuit(4, 2)
    inputs, weights, grad = arguments(ansatz, 3, torch.float64, False)
    seconds, jacobians, batched = [], [], []
    for simulate in both(ansatz):
        (first,) = torch.autograd.grad((simulate(inputs, weights) * grad).sum(), weights, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), (inputs, weights)))
        jacobians.append(torch.func.jacrev(lambda w, s=simulate: s(inputs.detach(), w))(weights.detach()))
        many = torch.stack([weights.detach(), 2 * weights.detach()])
        batched.append(torch.func.vmap(lambda w, s=simulate: s(inputs.detach(), w))(many))
    torch.testing.assert_close(*seconds, atol=1e-11, rtol=0)
    torch.testing.assert_close(*jacobians, atol=1e-12, rtol=0)
    torch.testing.assert_close(*batched, atol=1e-12, rtol=0)


def test_torch_compile_takes_the_torch_engine_whole():
    simulate = native(superposition_circuit(3, 1))
    inputs, weights, _ = arguments(simulate.ansatz, 4, torch.float32, False)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, w: simulate(x, w), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs, weights), simulate(inputs, weights))


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(0, 6), max_size=3),
    weights=st.lists(st.integers(0, 13), max_size=2),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64, torch.int64, torch.complex64]),
    fill=st.sampled_from([0.0, float("nan"), float("inf"), 3e4]),
)
def test_no_input_ends_the_process(shape, weights, dtype, fill):
    simulate = native(superposition_circuit(4, 2))
    value = 0 if dtype == torch.int64 else fill
    inputs, weights = torch.full(shape, value, dtype=dtype), torch.full(weights, value, dtype=dtype)
    floating = dtype in (torch.float32, torch.float64)
    if floating and len(shape) == 2 and shape[1] == 4 and tuple(weights.shape) in ((12,), (shape[0], 12)):
        out = simulate(inputs, weights)
        assert out.shape == (shape[0], 16)
        assert bool(out.isnan().any()) == (shape[0] > 0 and not math.isfinite(fill))
    elif dtype != torch.float16:  # which the torch engine takes
        with pytest.raises(ValueError, match="Invalid"):
            simulate(inputs, weights)


def test_strided_inputs_weights_and_gradients():
    ansatz = superposition_circuit(4, 2)
    native, reference = both(ansatz)
    wide = torch.randn(20, 8, dtype=torch.float64)
    inputs, weights = wide[:, ::2], torch.randn(24, dtype=torch.float64)[::2]
    for grad in (torch.randn(16, 20, dtype=torch.float64).T, torch.ones((), dtype=torch.float64).expand(20, 16)):
        found = []
        for simulate in (native, reference):
            x, w = inputs.clone().requires_grad_(), weights.clone().requires_grad_()
            torch.testing.assert_close(simulate(inputs, weights), simulate(x, w))
            found.append(torch.autograd.grad(simulate(x, w), (x, w), grad))
        torch.testing.assert_close(*found, atol=1e-12, rtol=0)


def probabilities_of(simulate):
    inputs, weights, _ = arguments(simulate.ansatz, 5, torch.float32, False)
    return simulate(inputs, weights).detach()


def test_copies_processes_and_threads():
    simulate = native(superposition_circuit(4, 2))
    expected = probabilities_of(simulate)
    for other in (copy.deepcopy(simulate), pickle.loads(pickle.dumps(simulate))):
        assert torch.equal(probabilities_of(other), expected)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(probabilities_of, [simulate] * 4))
    with ThreadPoolExecutor(4) as threads:
        assert all(torch.equal(found, expected) for found in threads.map(probabilities_of, [simulate] * 20))


def test_engines_are_named(monkeypatch):
    ansatz = superposition_circuit(2, 1)
    assert CircuitSimulator(ansatz).engine == "torch"
    assert native(ansatz).engine == "native"
    with pytest.raises(ValueError, match="Invalid engine: 'gpu'; it must be 'native' or 'torch'"):
        CircuitSimulator(ansatz, engine="gpu")
    monkeypatch.setattr("lightning_qsgd.quantum.simulator.has_numba", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-qsgd\[fast\]'"):
        native(ansatz)


def test_phases_that_weights_alone_decide_are_one_table():
    """Many phases of one layer are one product for all rows."""
    simulate = native(superposition_circuit(4, 2))
    ops = simulate._whole.engine._programs[False].ops
    (layer,) = ops[ops[:, 0] == PHASES]
    assert layer[2] == layer[3] == 4  # shared, all


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("make", [separate_circuit, lambda n: layered_circuit(n, 3, entanglement="none")])
def test_circuits_without_gates_between_them_run_one_after_the_other(monkeypatch, make, always):
    """The same numbers and derivatives of any order as the whole circuit, whatever pays."""
    monkeypatch.setattr("lightning_qsgd.quantum.simulator.CALL", 0 if always else 10**9)
    ansatz = make(5)
    simulate, reference = both(ansatz)
    inputs = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(ansatz.num_weights, dtype=torch.float64, requires_grad=True)
    calls = []
    for part in simulate._product.parts:
        monkeypatch.setattr(part.engine, "forward", lambda *a, f=part.engine.forward: calls.append(1) or f(*a))
    torch.testing.assert_close(simulate(inputs, weights), reference(inputs, weights), atol=1e-12, rtol=0)
    assert bool(calls) == always
    functional = torch.randn(9, 32, dtype=torch.float64)
    found, right = (
        torch.autograd.grad((s(inputs, weights) * functional).sum(), (inputs, weights), create_graph=True)
        for s in (simulate, reference)
    )
    torch.testing.assert_close(found, right, atol=1e-11, rtol=0)
    found, right = (torch.autograd.grad(first[1].square().sum(), inputs)[0] for first in (found, right))
    torch.testing.assert_close(found, right, atol=1e-10, rtol=0)


def test_separate_qubits_need_no_large_state():
    """18 qubits with 40 angles each are 18 circuits of one qubit."""
    x = ParameterVector("x", 18)
    circuit = QuantumCircuit(18)
    for _ in range(20):
        for q in range(18):
            circuit.ry(x[q], q)
            circuit.rz(x[q], q)
    simulate = native(Ansatz(circuit, list(x)))
    assert simulate._product.work * 1000 < simulate._whole.work
    inputs = torch.randn(1, 18, dtype=torch.float64)
    ones = torch.stack(
        [CircuitSimulator(Ansatz(_one(20, x[q]), [x[q]]))(inputs[:, q : q + 1])[0, 1] for q in range(18)]
    )
    found = simulate(inputs)[0].view((2,) * 18)
    for q in range(18):
        axes = [axis for axis in range(18) if axis != 17 - q]
        torch.testing.assert_close(found.sum(axes)[1], ones[q], atol=1e-12, rtol=0)


def _one(depth, angle):
    circuit = QuantumCircuit(1)
    for _ in range(depth):
        circuit.ry(angle, 0)
        circuit.rz(angle, 0)
    return circuit
