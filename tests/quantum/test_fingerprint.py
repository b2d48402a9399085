import os
import subprocess
import sys

import numpy as np
from qiskit import ClassicalRegister, QuantumCircuit, qasm2, transpile
from qiskit.circuit import AnnotatedOperation, ControlModifier, Gate, Parameter, ParameterVector
from qiskit.circuit.library import (
    BitwiseXorGate,
    HGate,
    MCMTGate,
    PauliEvolutionGate,
    PauliProductRotationGate,
    RYGate,
    UnitaryGate,
    YGate,
)
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.quantum_info import Pauli
from scipy.stats import unitary_group

from lightning_qsgd.quantum import (
    Ansatz,
    superposition_circuit,
)
from lightning_qsgd.quantum.fingerprint import of_ansatz, of_request


def build(name="x", factor=1.0, last="x", block="h", swapped=False):
    x = ParameterVector(name, 2)
    circuit, inner = QuantumCircuit(2), QuantumCircuit(1, name="block")
    getattr(inner, block)(0)
    circuit.ry(factor * x[0] + 0.5, 0)
    circuit.rx(x[1], 1)
    circuit.cx(0, 1)
    circuit.append(inner.to_gate(), [1])
    getattr(circuit, last)(0)
    return Ansatz(circuit, [x[1], x[0]] if swapped else list(x))


def test_names_do_not_count_but_everything_else_does():
    base = of_ansatz(build())
    assert of_ansatz(build("angle")) == base
    others = [build(factor=2), build(last="h"), build(block="s"), build(swapped=True)]
    assert len({base, *map(of_ansatz, others)}) == 5


def test_weights_count_to_1e_9():
    ansatz, weights = superposition_circuit(2, 1), np.array([0.0, 0.3])
    base = of_ansatz(ansatz, weights)
    assert of_ansatz(ansatz, weights + np.array([-1e-17, 1e-12])) == base
    assert of_ansatz(ansatz, weights + np.array([0, 1e-6])) != base
    assert of_ansatz(ansatz) != base


def test_matrices_count_in_full():
    def with_matrix(seed):
        x = ParameterVector("x", 6)
        circuit = QuantumCircuit(6)
        for q in range(6):
            circuit.ry(x[q], q)
        circuit.append(UnitaryGate(unitary_group.rvs(64, random_state=seed)), range(6))
        return Ansatz(circuit, list(x))

    assert of_ansatz(with_matrix(0)) == of_ansatz(with_matrix(0)) != of_ansatz(with_matrix(1))


def test_names_that_leave_open_what_a_gate_does_do_not_count_alone():
    """Gates of a QASM file, evolutions, classes of one's own, modifiers, layouts: equal names, other circuits."""
    x = Parameter("x")

    def after(operation, *qubits):
        circuit = QuantumCircuit(2)
        circuit.ry(x, 0)
        circuit.append(operation, qubits)
        return circuit

    def from_qasm(body):
        text = f"OPENQASM 2.0; gate mine a {{ {body} }} qreg q[1]; mine q[0];"
        return after(qasm2.loads(text).data[0].operation, 0)

    def own(angle):
        class Mine(Gate):
            def __init__(self):
                super().__init__("mine", 1, [])

            def _define(self):
                self.definition = QuantumCircuit(1)
                self.definition.ry(angle, 0)

        return after(Mine(), 0)

    def controlled(angle):
        block = QuantumCircuit(1, name="x")
        block.ry(angle, 0)
        return after(block.to_gate().control(1), 0, 1)

    def under_control(phase):
        block = QuantumCircuit(1, global_phase=phase)
        block.h(0)
        return after(AnnotatedOperation(block.to_gate(), ControlModifier(1)), 0, 1)

    pairs = [
        (after(BitwiseXorGate(1, 0), 0), after(BitwiseXorGate(1, 1), 0)),
        (
            after(PauliProductRotationGate(Pauli("XX"), 0.3), 0, 1),
            after(PauliProductRotationGate(Pauli("ZY"), 0.3), 0, 1),
        ),
        (after(MCMTGate(HGate(), 1, 1), 0, 1), after(MCMTGate(YGate(), 1, 1), 0, 1)),
        (under_control(0.0), under_control(1.0)),
        (controlled(0.1), controlled(0.2)),
        (from_qasm("U(0.1,0,0) a;"), from_qasm("U(0.2,0,0) a;")),
        (own(0.1), own(0.2)),
        *[
            (after(PauliEvolutionGate(Pauli(one)), 0, 1), after(PauliEvolutionGate(Pauli(other)), 0, 1))
            for one, other in [("XX", "ZZ"), ("XZ", "ZX")]
        ],
        (
            after(AnnotatedOperation(RYGate(0.3), ControlModifier(1, 0)), 0, 1),
            after(AnnotatedOperation(RYGate(0.3), ControlModifier(1, 1)), 0, 1),
        ),
        (after(RYGate(0.3).control(1, ctrl_state=0), 0, 1), after(RYGate(0.3).control(1), 0, 1)),
    ]
    swapped = after(RYGate(0.3), 1)
    swapped.swap(0, 1)
    elided = transpile(swapped, basis_gates=["ry"], optimization_level=2)
    pairs.append((elided, QuantumCircuit(2).compose(elided)))
    for one, other in pairs:
        assert of_ansatz(Ansatz(one, [x])) == of_ansatz(Ansatz(one, [x])) != of_ansatz(Ansatz(other, [x]))
        assert Ansatz(one, [x]) == Ansatz(one, [x]) != Ansatz(other, [x])


def test_a_fingerprint_leaves_the_circuit_as_it_is():
    """Qiskit's assign_parameters writes into the base operation of an annotated one."""
    x, block = Parameter("x"), QuantumCircuit(1)
    block.global_phase = 4 * x
    circuit = QuantumCircuit(2)
    circuit.append(AnnotatedOperation(block.to_gate(), ControlModifier(1)), [0, 1])
    circuit.ry(x, 1)
    ansatz = Ansatz(circuit, [x])
    assert of_ansatz(ansatz) == of_ansatz(Ansatz(circuit, [x])) == of_ansatz(Ansatz(ansatz.circuit, [x]))


FINGERPRINT = """
import numpy as np
from qiskit import transpile
from lightning_qsgd.quantum import FakeBackendSampler, superposition_circuit
from lightning_qsgd.quantum.fingerprint import of_request
from qiskit.primitives.containers.sampler_pub import SamplerPub
circuit = superposition_circuit(3, 2).circuit
circuit.append(superposition_circuit(2, 1).circuit.assign_parameters(np.ones(8)[:superposition_circuit(2, 1).circuit
    .num_parameters]).to_gate(), [0, 1])
circuit.measure_all()
for one in (circuit, transpile(circuit, FakeBackendSampler().backend, seed_transpiler=0)):
    print(of_request([SamplerPub.coerce((one, np.ones((2, one.num_parameters))))], "here"))
"""


def test_fingerprints_are_equal_in_every_process(capsys):
    exec(FINGERPRINT, {})
    first = capsys.readouterr().out
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    other = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", FINGERPRINT], env=other, check=True, capture_output=True, text=True)
    second = done.stdout
    assert [len(line) for line in first.splitlines()] == [64, 64]
    assert first == second


def test_fingerprints_differ_where_anything_differs():
    x = ParameterVector("x", 2)

    def circuit(change=None):
        made = QuantumCircuit(2)
        made.rx(x[1 if change == "parameter" else 0], 0)
        made.ry(2 * x[1] if change == "coefficient" else x[1], 1)
        made.cx(1, 0) if change == "order" else made.cx(0, 1)
        inner = QuantumCircuit(1)
        inner.rz(0.5 if change == "composite" else 0.25, 0)
        made.append(inner.to_gate(), [0])
        matrix = np.eye(4)
        matrix[3, 3] = -1 if change == "matrix" else 1
        made.unitary(matrix, [0, 1])
        if change == "register":
            made.add_register(ClassicalRegister(2, "c"))
            made.measure([0, 1], [0, 1])
        else:
            made.measure_all()
        return made

    changes = [None, "coefficient", "order", "composite", "matrix", "register"]
    pubs = [SamplerPub.coerce((circuit(change), [[0.1, 0.2]]), 8) for change in changes]
    pubs.append(SamplerPub.coerce((circuit(), [[0.1, 0.3]]), 8))
    pubs.append(SamplerPub.coerce((circuit(), [[0.1, 0.2]]), 9))
    prints = [of_request([pub], "here") for pub in pubs] + [of_request(pubs[:1], "there"), of_request(pubs[:2], "")]
    assert len(set(prints)) == len(prints)
    assert of_request([SamplerPub.coerce((circuit(), [[0.1, 0.2]]), 8)], "here") == prints[0]
