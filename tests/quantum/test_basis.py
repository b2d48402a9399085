"""Gates are judged by what they do, and what was cheap stays cheap."""

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit, qasm2
from qiskit.circuit import (
    AnnotatedOperation,
    ControlledGate,
    ControlModifier,
    Gate,
    Parameter,
    ParameterVector,
    PowerModifier,
)
from qiskit.circuit.library import (
    CXGate,
    HamiltonianGate,
    HGate,
    PauliEvolutionGate,
    RYGate,
    StatePreparation,
    UGate,
    XGate,
)
from qiskit.quantum_info import Clifford, Operator, SparsePauliOp, Statevector

from lightning_qsgd.quantum import AerSampler, Ansatz, CircuitSimulator, QuantumNetwork
from lightning_qsgd.quantum.light_cone import light_cones
from lightning_qsgd.quantum.network import shift_rule
from lightning_qsgd.quantum.surrogate import input_degrees

x = Parameter("x")


def circuit_of(num_qubits, *gates):
    circuit = QuantumCircuit(num_qubits)
    circuit.ry(x, 0)
    for gate, *qubits in gates:
        circuit.append(gate, qubits)
    return circuit


def equals_qiskit(circuit, value=0.7):
    ansatz = Ansatz(circuit, [x])
    truth = Statevector(circuit.assign_parameters({x: value})).probabilities()
    simulated = CircuitSimulator(ansatz)(torch.tensor([[value]], dtype=torch.float64))[0]
    np.testing.assert_allclose(simulated, truth, atol=1e-10)
    np.testing.assert_allclose(QuantumNetwork(ansatz).probabilities([[value]])[0], truth, atol=1e-10)
    return truth


def block(name, *steps):
    inner = QuantumCircuit(2, name=name)
    for method, *arguments in steps:
        getattr(inner, method)(*arguments)
    return inner.to_gate()


def test_names_say_nothing():
    """Right value: Qiskit's statevector, which takes a block's definition."""
    steps = ("swap", 0, 1), ("ry", x, 0)
    for name in ("swap", "x", "h", "rzz", "id", "barrier", "reset", "measure", "cx"):
        equals_qiskit(circuit_of(2, (RYGate(0.4), 1), (block(name, *steps), 0, 1)))
    equals_qiskit(circuit_of(2, (CXGate(ctrl_state=0), 0, 1)))  # a CXGate by class
    text = "OPENQASM 2.0; gate s a { U(0,0,pi/4) a; } gate rzz(t) a,b { CX a,b; U(0,0,2*t) b; CX a,b; } qreg q[2];"
    circuit = circuit_of(2)
    circuit.h([0, 1])
    circuit.compose(qasm2.loads(text + " rzz(0.4) q[0],q[1]; s q[0];"), inplace=True)
    circuit.h([0, 1])
    np.testing.assert_allclose(equals_qiskit(circuit), [0.654, 0.195, 0.035, 0.117], atol=5e-4)


def test_a_controlled_block_is_its_own_and_not_the_gate_of_its_name():
    """Qiskit 2.6 controls the standard gate of that name, for the definition and the matrix alike."""
    inner = QuantumCircuit(1, name="x")
    inner.ry(0.7, 0)
    ansatz = Ansatz(circuit_of(2, (inner.to_gate().control(1), 0, 1)), [x])
    twin = circuit_of(2, (RYGate(0.7).control(1), 0, 1))
    simulated = CircuitSimulator(ansatz)(torch.tensor([[0.3]], dtype=torch.float64))[0]
    np.testing.assert_allclose(simulated, Statevector(twin.assign_parameters({x: 0.3})).probabilities(), atol=1e-12)


@pytest.mark.parametrize(
    ("build", "degree", "shifts"),
    [
        (lambda c: c.cp(x, 0, 1), 1, 2),
        (lambda c: c.cu1(x, 0, 1) if hasattr(c, "cu1") else c.cp(x, 0, 1), 1, 2),
        (lambda c: c.mcp(x, [0, 1], 2), 1, 2),
        (lambda c: c.rxx(x, 0, 1), 1, 2),
        (lambda c: c.ryy(x, 0, 1), 1, 2),
        (lambda c: c.rzx(x, 0, 1), 1, 2),
        (lambda c: c.crx(2 * x, 0, 1), 2, 4),
        (lambda c: c.append(RYGate(2 * x).control(2), [0, 1, 2]), 2, 4),
        (lambda c: c.u(x, 0.1, 0.2, 0), 1, 2),
        (lambda c: c.cu(2 * x, 0.1, 0.2, 0.3, 0, 1), 2, 4),
        (lambda c: c.append(PauliEvolutionGate(SparsePauliOp(["ZZI"]), x), [0, 1, 2]), 2, 2),
        (lambda c: c.append(AnnotatedOperation(RYGate(2 * x), ControlModifier(1)), [0, 1]), 2, 4),
    ],
    ids=["cp", "cu1", "mcp", "rxx", "ryy", "rzx", "crx", "ccry", "u", "cu", "evolution", "annotated"],
)
def test_costs_are_those_of_the_gate_and_not_of_its_parts(build, degree, shifts):
    circuit = QuantumCircuit(3)
    circuit.h([0, 1, 2])
    build(circuit)
    circuit.h([0, 1, 2])
    ansatz = Ansatz(circuit, [x])
    assert input_degrees(ansatz) == [degree]
    assert ansatz.normal_form.num_shifts == shifts
    network, step = QuantumNetwork(ansatz), 1e-4
    by_inputs, _ = network.jacobian([[0.4]])
    assert network.circuits == shifts
    plus, minus = network.probabilities([[0.4 + step], [0.4 - step]])
    np.testing.assert_allclose(by_inputs[0, :, 0], (plus - minus) / (2 * step), atol=1e-6)


def test_a_gate_taken_apart_costs_the_simulator_no_more_stages():
    """cp, rzz and ccz are one phase again; two cx that cancel vanish."""
    for build in (lambda c: c.cp(x, 0, 1), lambda c: c.rzz(x, 0, 1), lambda c: c.ccz(0, 1, 2)):
        circuit = QuantumCircuit(3)
        circuit.ry(x, 0)
        build(circuit)
        circuit.cx(0, 1)
        circuit.cx(0, 1)
        circuit.h(0)
        plan = CircuitSimulator(Ansatz(circuit, [x]))._torch._plan
        assert [type(stage).__name__ for stage in plan] == ["_Real", "_Phase", "_Real"]
        assert len(plan[1].signs) == 1


def test_light_cones_are_no_wider():
    y = ParameterVector("y", 3)
    circuit = QuantumCircuit(3)
    for q in range(3):
        circuit.ry(y[q], q)
    circuit.rzz(0.3, 0, 1)
    circuit.rx(0.2, 0)
    assert light_cones(Ansatz(circuit, list(y)), ["Z0", "Z1", "Z2"]) == [(0, 1), (0, 1), (2,)]


def test_shift_rules():
    shifts, factors = shift_rule((1.0,))
    np.testing.assert_allclose([shifts, factors], [[np.pi / 2], [0.5]])
    shifts, factors = shift_rule((0.5, 1.0))  # Anselmetti et al. 2021, arXiv 2104.05695, Eq. 6 in our signs
    np.testing.assert_allclose(shifts, [np.pi / 2, 3 * np.pi / 2])
    np.testing.assert_allclose(factors, [(2**0.5 + 1) / (4 * 2**0.5), -(2**0.5 - 1) / (4 * 2**0.5)])


def test_evolution_means_its_synthesis_on_every_engine():
    """Terms that do not commute: one Trotter step, where Qiskit's statevector takes the exponential."""
    circuit = circuit_of(2, (PauliEvolutionGate(SparsePauliOp(["XX", "ZI", "IZ"]), 0.9), 0, 1))
    ansatz, twin = Ansatz(circuit, [x]), circuit.decompose()
    truth = Statevector(twin.assign_parameters({x: 0.7})).probabilities()
    exponential = Statevector(circuit.assign_parameters({x: 0.7})).probabilities()
    assert np.abs(truth - exponential).max() > 0.01
    np.testing.assert_allclose(CircuitSimulator(ansatz)(torch.tensor([[0.7]]).double())[0], truth, atol=1e-10)
    np.testing.assert_allclose(QuantumNetwork(ansatz).probabilities([[0.7]])[0], truth, atol=1e-10)
    np.testing.assert_allclose(QuantumNetwork(ansatz, AerSampler(20_000)).probabilities([[0.7]])[0], truth, atol=0.03)


def test_a_controlled_gate_with_a_definition_of_its_own_is_that():
    """A relative-phase Toffoli, as its author defines it; Qiskit's statevector takes the definition too."""

    class Margolus(ControlledGate):
        def __init__(self):
            super().__init__("margolus", 3, [], num_ctrl_qubits=2, base_gate=XGate())

        def _define(self):
            self.definition = QuantumCircuit(3)
            self.definition.rccx(0, 1, 2)

    circuit = QuantumCircuit(3)
    circuit.h([0, 1, 2])
    circuit.ry(x, 2)
    circuit.append(Margolus(), [0, 1, 2])
    circuit.h([0, 1, 2])
    np.testing.assert_allclose(equals_qiskit(circuit)[:4], [0.1548, 0.3158, 0.0147, 0.0147], atol=5e-5)
    turn = QuantumCircuit(2)
    turn.cry(x, 0, 1)
    turn.p(0.7, 0)
    own = ControlledGate("mine", 2, [x], num_ctrl_qubits=1, base_gate=RYGate(x), definition=turn)
    ansatz = Ansatz(circuit_of(2, (HGate(), 0), (own, 0, 1), (HGate(), 0)), [x])
    twin = circuit_of(2, (HGate(), 0))
    twin.compose(turn, inplace=True)
    twin.h(0)
    truth = Statevector(twin.assign_parameters({x: 0.7})).probabilities()
    np.testing.assert_allclose(CircuitSimulator(ansatz)(torch.tensor([[0.7]]).double())[0], truth, atol=1e-12)


def test_other_operations():
    rng = np.random.default_rng(0)
    state = rng.normal(size=4) + 1j * rng.normal(size=4)
    equals_qiskit(circuit_of(3, (StatePreparation(state / np.linalg.norm(state)), 1, 2)))
    inner = QuantumCircuit(2)
    inner.h(0)
    inner.cx(0, 1)
    equals_qiskit(circuit_of(2, (Clifford(inner), 0, 1)))
    circuit = QuantumCircuit(2)
    circuit.initialize([0.6, 0.8], 1)  # begins with a reset, of a qubit that is 0
    circuit.ry(x, 0)
    circuit.cx(1, 0)
    assert not Ansatz(circuit, [x]).normal_form.resets

    class Opaque(Gate):
        def __init__(self):
            super().__init__("x", 1, [])

        def __array__(self, dtype=None, copy=None):
            return Operator(RYGate(0.5)).data

    equals_qiskit(circuit_of(1, (Opaque(), 0)))


def test_fractions_of_powers_that_qiskit_does_not_have_are_refused():
    for base in (UGate(x, x, x), Clifford(QuantumCircuit(1))):
        with pytest.raises(ValueError, match="cannot be decomposed; use the gate's own methods"):
            Ansatz(circuit_of(1, (AnnotatedOperation(base, PowerModifier(0.5)), 0)), [x])


def test_gates_that_nothing_defines_are_refused():
    with pytest.raises(ValueError, match=r"Gate 'mine' has no definition.*set its .definition"):
        Ansatz(circuit_of(1, (Gate("mine", 1, []), 0)), [x])
    with pytest.raises(ValueError, match=r"Gate 'mine' has no definition.* with \['x'\]"):
        Ansatz(circuit_of(1, (Gate("mine", 1, [x]), 0)), [x])

    class Endless(Gate):
        def __init__(self):
            super().__init__("loop", 1, [])

        def _define(self):
            self.definition = QuantumCircuit(1, name="loop")
            self.definition.append(Endless(), [0])

    with pytest.raises(ValueError, match="'loop' is defined by itself"):
        Ansatz(circuit_of(1, (Endless(), 0)), [x])
    with pytest.raises(ValueError, match=r"Gate .hamiltonian. has no definition.*PauliEvolutionGate"):
        Ansatz(circuit_of(1, (HamiltonianGate(Operator(RYGate(0.5)).data + Operator(RYGate(-0.5)).data, x), 0)), [x])
