"""The circuit that engines run: layouts undone, measurements left out, the user's circuit left alone."""

import io
import warnings

import numpy as np
import pytest
import torch
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, qasm3, qpy, transpile
from qiskit.circuit import Parameter, ParameterVector
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import DensityMatrix, Statevector
from qiskit_ibm_runtime.fake_provider import FakeManilaV2, FakeSherbrooke

from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    CircuitSimulator,
    ExactSampler,
    FakeBackendSampler,
    QuantumLayer,
    QuantumNetwork,
    ReliableSampler,
)

x = ParameterVector("x", 3)
VALUES = [0.3, 1.1, 2.0]


def original():
    circuit = QuantumCircuit(3)
    for q in range(3):
        circuit.ry(x[q], q)
    circuit.ccx(0, 1, 2)
    circuit.swap(0, 2)
    return circuit


TRUTH = Statevector(original().assign_parameters({x: VALUES})).probabilities()
Z = [-0.411, 0.454, 0.955]


def expect(circuit, truth=TRUTH, inputs=x, values=VALUES):
    ansatz = Ansatz(circuit, list(inputs))
    assert 2**ansatz.num_qubits == len(truth)
    rows = torch.tensor([values], dtype=torch.float64)
    np.testing.assert_allclose(CircuitSimulator(ansatz)(rows)[0], truth, atol=1e-10)
    np.testing.assert_allclose(QuantumNetwork(ansatz).probabilities(rows)[0], truth, atol=1e-10)
    np.testing.assert_allclose(QuantumNetwork(ansatz, AerSampler(20_000)).probabilities(rows)[0], truth, atol=0.03)
    return ansatz


def through_qpy(circuit):
    file = io.BytesIO()
    qpy.dump(circuit, file)
    file.seek(0)
    (back,) = qpy.load(file)
    return back


@pytest.mark.parametrize("level", range(4))
def test_an_elided_swap_is_undone(level):
    """At levels 2 and 3 the transpiler elides the swap and writes it into the layout."""
    circuit = transpile(original(), basis_gates=["rz", "ry", "h", "t", "tdg", "cx"], optimization_level=level)
    ansatz = expect(circuit)
    layer = QuantumLayer(ansatz, "expectations")
    np.testing.assert_allclose(layer(torch.tensor([VALUES])).detach()[0], Z, atol=1e-3)


@pytest.mark.parametrize("layout", [None, [0, 2, 4], [4, 0, 3]])
def test_a_routed_circuit_has_its_own_qubits(layout):
    """Routing over ancillas included, the device's 5 qubits are the circuit's 3."""
    circuit = transpile(original(), FakeManilaV2(), initial_layout=layout, seed_transpiler=3)
    ansatz = expect(circuit)
    inputs = torch.tensor([VALUES], requires_grad=True)
    QuantumLayer(ansatz, "expectations")(inputs)[0, 0].backward()
    exact = torch.tensor([VALUES], requires_grad=True)
    QuantumLayer(Ansatz(original(), list(x)), "expectations")(exact)[0, 0].backward()
    torch.testing.assert_close(inputs.grad, exact.grad)
    shifted, _ = QuantumNetwork(ansatz).jacobian([VALUES])
    plain, _ = QuantumNetwork(Ansatz(original(), list(x))).jacobian([VALUES])
    np.testing.assert_allclose(shifted, plain, atol=1e-9)


def test_127_qubits_with_3_in_use_are_3():
    circuit = transpile(original(), FakeSherbrooke(), seed_transpiler=0)
    assert circuit.num_qubits == 127
    expect(circuit)
    device = QuantumNetwork(Ansatz(circuit, list(x)), FakeBackendSampler("FakeManilaV2", shots=4000))
    np.testing.assert_allclose(device.probabilities([VALUES])[0], TRUTH, atol=0.1)


def test_idle_qubits_of_the_circuit_stay():
    circuit = QuantumCircuit(3)
    circuit.ry(x[0], 1)
    truth = Statevector(circuit.assign_parameters([0.3])).probabilities()
    expect(circuit, truth, x[:1], [0.3])
    expect(transpile(circuit, FakeManilaV2(), seed_transpiler=0), truth, x[:1], [0.3])


def test_what_stands_on_qubits_that_are_left_out_is_left_out():
    circuit = transpile(original(), FakeSherbrooke(), seed_transpiler=0)
    spare = next(
        q for q in range(127) if not any(circuit.find_bit(b).index == q for i in circuit.data for b in i.qubits)
    )
    circuit.barrier()
    circuit.id(spare)
    circuit.delay(100, spare)
    expect(circuit)


def test_layouts_survive_copies_and_qpy():
    circuit = transpile(original(), FakeManilaV2(), seed_transpiler=3)
    for same in (circuit.copy(), through_qpy(circuit), circuit.measure_all(inplace=False)):
        ansatz = Ansatz(same, sorted(same.parameters, key=lambda p: p.name))
        rows = torch.tensor([VALUES], dtype=torch.float64)
        np.testing.assert_allclose(CircuitSimulator(ansatz)(rows)[0], TRUTH, atol=1e-10)


def test_layouts_that_are_wrong_are_refused_and_the_way_out_works():
    circuit = transpile(original(), basis_gates=["rz", "ry", "h", "t", "tdg", "cx"], optimization_level=2)
    back = qasm3.loads(qasm3.dumps(circuit))
    wider = circuit.copy()
    wider.add_register(QuantumRegister(1))
    for wrong, message in (
        (back, "layout that Qiskit cannot read"),
        (circuit.reverse_ops(), "reversed after it was transpiled"),
        (wider, "layout of another circuit"),
    ):
        parameters = sorted(wrong.parameters, key=lambda p: p.name)
        with pytest.raises(ValueError, match=f"{message}.*pass the circuit from before"):
            Ansatz(wrong, parameters)
        plain = QuantumCircuit(wrong.num_qubits).compose(wrong)  # as the message says
        truth = Statevector(plain.assign_parameters(dict(zip(parameters, VALUES, strict=True)))).probabilities()
        expect(plain, truth, parameters)


def test_gates_on_ancillas_are_refused():
    circuit = transpile(original(), FakeManilaV2(), seed_transpiler=3)
    (ancilla, *_) = set(range(5)) - set(circuit.layout.final_index_layout())
    circuit.rz(0.3, ancilla)  # changes nothing: an ancilla is 0
    circuit.id(ancilla)
    circuit.barrier()
    expect(circuit)
    circuit.h(ancilla)
    with pytest.raises(ValueError, match=r"calls ancillas do not end in 0 \(probability 0.5\)"):
        Ansatz(circuit, list(x))


def test_qubits_of_a_device_whose_layout_is_lost_are_warned_of():
    """Where Qiskit drops the layout, nothing but idle qubits tells that the circuit is one for a device."""
    circuit = transpile(original(), FakeManilaV2(), seed_transpiler=3)
    for changed in (circuit.inverse(), transpile(circuit, optimization_level=0)):
        with pytest.warns(UserWarning, match=r"qubits without a gate: 0, 1\. .*pass the circuit from before"):
            assert Ansatz(changed, list(x)).num_qubits == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ansatz(circuit, list(x))
        idle = QuantumCircuit(2)
        idle.ry(x[0], 0)
        Ansatz(idle, [x[0]])


def test_inverse_and_reverse_bits_are_plain_circuits():
    """Qiskit 2.6 drops the layout of both: their qubits are physical ones, in their order."""
    circuit = transpile(original(), basis_gates=["rz", "ry", "h", "t", "tdg", "cx"], optimization_level=2)
    for changed in (circuit.inverse(), circuit.reverse_bits(), circuit.decompose()):
        assert changed.layout is None
        expect(changed, Statevector(changed.assign_parameters({x: VALUES})).probabilities())


def test_later_changes_to_the_circuit_change_nothing():
    circuit = original()
    ansatz = Ansatz(circuit, list(x))
    circuit.x(0)
    circuit.data.clear()
    rows = torch.tensor([VALUES], dtype=torch.float64)
    np.testing.assert_allclose(CircuitSimulator(ansatz)(rows)[0], TRUTH, atol=1e-10)
    assert ansatz == Ansatz(original(), list(x))
    assert ansatz != Ansatz(QuantumCircuit(3).compose(original().inverse()), list(x))


@pytest.mark.parametrize("measured", ["nothing", "all", "partly", "crossed", "in a block"])
def test_measurements_at_the_end_are_left_out(measured):
    circuit = original()
    circuit.add_register(ClassicalRegister(2, "c"), ClassicalRegister(1, "unused"))
    if measured == "all":
        circuit.measure_all()
    elif measured == "partly":
        circuit.measure(1, 0)
    elif measured == "crossed":
        circuit.barrier()
        circuit.measure([0, 1], [1, 0])  # outcome bits follow qubits
    elif measured == "in a block":
        end = QuantumCircuit(1, 1)
        end.measure(0, 0)
        circuit.append(end.to_instruction(), [2], [0])
    expect(circuit)


def test_what_no_engine_runs_is_refused_with_a_way_that_works():
    circuit = QuantumCircuit(2, 1)
    circuit.ry(x[0], 0)
    circuit.measure(0, 0)
    circuit.cx(0, 1)
    with pytest.raises(ValueError, match=r"Qubit 0 is measured before its last gate.*cx\(qubit, fresh\)"):
        Ansatz(circuit, [x[0]])
    control = QuantumCircuit(2, 1)
    control.ry(x[0], 0)
    control.measure(0, 0)
    with control.if_test((0, 1)):
        control.x(1)
    with pytest.raises(ValueError, match=r"control flow \(if_else\).*cx for an x under if_test"):
        Ansatz(control, [x[0]])
    deferred = QuantumCircuit(2)
    deferred.ry(x[0], 0)
    deferred.cx(0, 1)  # in place of if_test, as the message says
    expect(deferred, Statevector(deferred.assign_parameters([0.3])).probabilities(), x[:1], [0.3])
    waiting = QuantumCircuit(1)
    waiting.ry(x[0], 0)
    waiting.delay(x[1], 0, "dt") if hasattr(x[1], "parameters") else None
    with pytest.raises(ValueError, match="duration"):
        Ansatz(waiting, [x[0], x[1]])


def test_reset_runs_where_it_is_right():
    y, t = Parameter("y"), Parameter("t")
    circuit = QuantumCircuit(2)
    circuit.ry(y, 0)
    circuit.cx(0, 1)
    circuit.reset(0)
    circuit.ry(t, 0)
    ansatz = Ansatz(circuit, [y], [t])
    truth = DensityMatrix(circuit.assign_parameters({y: 1.0, t: 0.5})).probabilities()
    network = QuantumNetwork(ansatz, AerSampler(shots=20_000))
    np.testing.assert_allclose(network.probabilities([[1.0]], [0.5])[0], truth, atol=0.02)
    plus, minus = (DensityMatrix(circuit.assign_parameters({y: v, t: 0.5})).probabilities() for v in (1.01, 0.99))
    np.testing.assert_allclose(network.jacobian([[1.0]], [0.5])[0][0, :, 0], (plus - minus) / 0.02, atol=0.02)
    device = QuantumNetwork(ansatz, FakeBackendSampler(shots=4000))
    np.testing.assert_allclose(device.probabilities([[1.0]], [0.5])[0], truth, atol=0.1)
    with pytest.raises(ValueError, match=r"has a reset.*AerSampler"):
        CircuitSimulator(ansatz)
    for sampler in (ExactSampler(), StatevectorSampler(), ReliableSampler(StatevectorSampler())):
        with pytest.raises(ValueError, match=r"a reset, which \w+ cannot run.*AerSampler"):
            QuantumNetwork(ansatz, sampler)


def test_parameters_that_change_no_probability_are_kept():
    circuit = QuantumCircuit(1, global_phase=x[1])
    circuit.ry(x[0], 0)
    expect(circuit, Statevector(circuit.assign_parameters([0.3, 0.4])).probabilities(), x[:2], [0.3, 0.4])
    by_inputs, _ = QuantumNetwork(Ansatz(circuit, list(x[:2]))).jacobian([[0.3, 0.4]])
    assert by_inputs[0, :, 0].any()
    assert not by_inputs[0, :, 1].any()


def test_any_expression_is_trained_on_every_engine():
    """zz_feature_map has products of inputs; only weights' gradients need circuits, 2 for each of their gates."""
    from qiskit.circuit.library import real_amplitudes, zz_feature_map

    features, trained = zz_feature_map(2, reps=1), real_amplitudes(2, reps=1)
    ansatz = Ansatz(features.compose(trained), list(features.parameters), list(trained.parameters))
    weights, rows = torch.linspace(-1, 1, 4), torch.rand(3, 2)
    gradients = []
    for engine in ("simulator", QuantumNetwork(ansatz)):
        layer = QuantumLayer(ansatz, "expectations", engine)
        layer.weights.data = weights.clone()
        inputs = rows.clone().requires_grad_()
        layer(inputs).square().sum().backward()
        gradients.append((layer.weights.grad, inputs.grad))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    network = QuantumNetwork(ansatz)
    network.jacobian(rows.numpy(), weights.numpy(), of="weights")
    assert network.circuits == 3 * 2 * 4
    assert network.jacobian(rows.numpy(), weights.numpy())[0].shape == (3, 4, 2)
