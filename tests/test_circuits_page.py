"""docs/circuits.md, "Refused circuits, and what to do instead": each row raises its message, and its way out works.

A case is named by its row's message. It raises that message inside of ``refused()``, then does what the row says.
"""

import ast
import re
import tempfile
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit, QuantumRegister, qasm2, qasm3, transpile
from qiskit.circuit import AnnotatedOperation, ControlModifier, Gate, InverseModifier, Parameter, PowerModifier
from qiskit.circuit import ParameterVector as Vector
from qiskit.circuit.library import HamiltonianGate, PauliEvolutionGate, RYGate, real_amplitudes
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import DensityMatrix, Operator, SparsePauliOp, Statevector
from qiskit.transpiler.passes import UnrollForLoops

from lightning_qsgd.optim import CircuitPerturbation, LiveCircuitPerturbation
from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    Calibration,
    CircuitSimulator,
    ExactSampler,
    FakeBackendSampler,
    FourierSurrogate,
    PauliNoise,
    QuantumLayer,
    QuantumNetwork,
    ScoreSeries,
    ShotSampler,
    SPSANetwork,
    calibrate,
    layered_circuit,
    superposition_circuit,
)
from lightning_qsgd.quantum.light_cone import LightConeSurrogate
from lightning_qsgd.quantum.torch_engine import TorchEngine
from tests.optim.common import live
from tests.test_docs import ROOT

PAGE = (ROOT / "docs" / "circuits.md").read_text()
HEADER = "| what | message begins | instead |\n|---|---|---|\n"
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for table in PAGE.split(HEADER)[1:]
    for line in table.split("\n\n")[0].splitlines()
]
SILENT = "no message"
#: Files whose limits the page lists, and what in them raises errors that no user sees, or that are not of circuits.
FILES = [
    *(f"quantum/{name}.py" for name in ("circuits", "normal_form", "basis", "angles", "observables", "stages")),
    *(f"quantum/{name}.py" for name in ("simulator", "torch_engine", "network", "layer", "samplers", "surrogate")),
    "quantum/trajectories.py",
    "quantum/score_series.py",
    *(f"optim/{name}.py" for name in ("circuit_perturbation", "live_circuit")),
]
NEVER_SEEN = {
    "linear_angle",  # caught: such angles are compiled
    "compiled",  # of its two the one of complex numbers is in the table; Qiskit 2.6 has no operation that torch lacks
    "_real",  # Qiskit refuses complex numbers first
    "ScoreSeries",  # options of attention
}
CASES, x, y, a = {}, Parameter("x"), Parameter("y"), Vector("a", 2)


def row(message):
    """The case of the row with this message."""

    def register(case):
        assert message not in CASES
        CASES[message] = case
        return case

    return register


@cache
def run(message):
    """The messages that a row's case raised."""
    pattern = ".*".join(re.escape(part) for part in message.removesuffix(" (Qiskit)").split("..."))
    found = []

    @contextmanager
    def refused(kind=ValueError):
        with pytest.raises(kind) as caught:
            yield
        found.append(str(caught.value))
        assert re.match(pattern, found[-1].strip("'\""), re.DOTALL), found[-1]

    CASES[message](refused)
    assert found or message.startswith(SILENT)
    return found


def turned(num_qubits=2, *bits):
    """Ry(x) on qubit 0."""
    circuit = QuantumCircuit(num_qubits, *bits)
    circuit.ry(x, 0)
    return circuit


def asymmetric():
    """Three qubits whose outcomes change with any change of their order."""
    circuit = turned(3)
    circuit.cx(0, 2)
    circuit.ry(0.9, 1)
    circuit.cx(1, 2)
    circuit.rx(0.4, 2)
    return circuit


def routed(circuit):
    """For a line of four qubits, from the far end, so that it is routed over an ancilla's place."""
    line = [[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2]]
    layout = [3, 1, 2] if circuit.num_qubits == 3 else None
    return transpile(circuit, basis_gates=["rz", "ry", "rx", "cx"], coupling_map=line, initial_layout=layout)


def plain(circuit):
    """As the messages say: outcome bit k is qubit k of this circuit."""
    return QuantumCircuit(circuit.num_qubits).compose(circuit)


def outcomes(circuit, values=(0.7,)):
    """Of this package, for a circuit of inputs alone, in the order of circuit.parameters."""
    ansatz = Ansatz(circuit, list(circuit.parameters))
    return CircuitSimulator(ansatz)(torch.tensor([values], dtype=torch.float64))[0].numpy()


def truth(circuit, values=(0.7,)):
    """Of Qiskit, which sees no layout and no measurement."""
    return Statevector(circuit.assign_parameters(values)).probabilities()


def same(circuit, right=None, values=(0.7,)):
    np.testing.assert_allclose(outcomes(circuit, values), truth(right or circuit, values), atol=1e-9)


@row("Invalid circuit")
def text(refused):
    for given in ("OPENQASM 2.0;", CircuitSimulator, Ansatz(turned(), [x])):
        with refused():
            Ansatz(given, [x])
    with refused():
        Ansatz(QuantumCircuit(0, global_phase=x), [x])
    with refused():
        QuantumLayer(Ansatz(turned(), [x]), circuit={"num_qubits": 2})
    qasm = 'OPENQASM 3.0; include "stdgates.inc"; input float[64] a; qubit[2] q; ry(a) q[0]; cx q[0], q[1];'
    same(qasm3.loads(qasm))
    circuit = turned()
    same(circuit.compose(qasm2.loads('OPENQASM 2.0; include "qelib1.inc"; qreg q[2]; cx q[0], q[1];')))


@row("A parameter is named twice")
def twice(refused):
    with refused():
        Ansatz(turned(), [x], [x])
    with refused():
        Ansatz(turned(), [x, x])
    Ansatz(turned(), [x])


@row("Inputs and weights hold another Parameter called")
def made_anew(refused):
    with refused():
        Ansatz(turned(), [Parameter("x")])
    Ansatz(turned(), [{p.name: p for p in turned().parameters}["x"]])


@row("Inputs and weights must name each circuit parameter once")
def left_out(refused):
    circuit = turned()
    circuit.ry(y, 1)
    with refused():
        Ansatz(circuit, [x])
    with refused():
        Ansatz(turned(), [x, y])
    Ansatz(circuit, [x], [y])
    same(circuit.assign_parameters({y: 0.3}))


@row("Qubit ... is measured before its last gate")
def measured(refused):
    circuit = turned(2, 1)
    circuit.measure(0, 0)
    circuit.ry(0.4, 0)
    with refused():
        Ansatz(circuit, [x])
    deferred = turned(3)
    deferred.cx(0, 2)  # qubit 2 is fresh
    deferred.ry(0.4, 0)
    same(deferred)
    assert outcomes(deferred)[4:].sum() == pytest.approx(np.sin(0.35) ** 2)  # what the measurement found
    emptied = turned()
    emptied.reset(0)
    network = QuantumNetwork(Ansatz(emptied, [x]), AerSampler(shots=100))
    assert network.probabilities([[0.7]])[0].tolist() == [1, 0, 0, 0]


@row("The circuit has classical control flow (if_else)")
def condition(refused):
    circuit = turned(2, 1)
    circuit.measure(0, 0)
    with circuit.if_test((0, 1)):
        circuit.x(1)
    with refused():
        Ansatz(circuit, [x])
    controlled = turned()
    controlled.cx(0, 1)
    np.testing.assert_allclose(outcomes(controlled), [np.cos(0.35) ** 2, 0, 0, np.sin(0.35) ** 2], atol=1e-12)


@row("The circuit has classical control flow (for_loop)")
def loop(refused):
    circuit, written = turned(), turned()
    with circuit.for_loop(range(1, 3), loop_parameter=y):
        circuit.rx(0.3 * y, 1)
    with refused():
        Ansatz(circuit, [x])
    written.rx(0.3 + 0.6, 1)
    same(UnrollForLoops()(circuit), written)


@row("The circuit has classical control flow (box)")
def box(refused):
    circuit = turned()
    with circuit.box():
        circuit.cx(0, 1)
    with refused():
        Ansatz(circuit, [x])
    circuit = turned()
    circuit.cx(0, 1)
    same(circuit)


@row("The duration ... of a delay is a parameter")
def delay(refused):
    circuit = turned()
    circuit.delay(y, 0, "dt")
    with refused():
        Ansatz(circuit, [x], [y])
    np.testing.assert_allclose(outcomes(circuit.assign_parameters({y: 100})), truth(turned()), atol=1e-12)
    stretched, numbered = turned(), turned()
    stretched.delay(stretched.add_stretch("s"), 0)
    with refused():
        Ansatz(stretched, [x])
    numbered.delay(100, 0)
    np.testing.assert_allclose(outcomes(numbered), truth(turned()), atol=1e-12)


@row("Gate ... has no definition in other gates")
def undefined(refused):
    circuit, gate = turned(), Gate("mine", 1, [x])
    circuit.append(gate, [1])
    with refused():
        Ansatz(circuit, [x])
    gate.definition = QuantumCircuit(1)
    gate.definition.rx(x, 0)
    circuit, right = turned(), turned()
    circuit.append(gate, [1])
    right.rx(x, 1)
    same(circuit, right)
    operator = SparsePauliOp("ZX")
    circuit, evolution = turned(), turned()
    circuit.append(HamiltonianGate(Operator(operator), x), [0, 1])
    with refused():
        Ansatz(circuit, [x])
    evolution.append(PauliEvolutionGate(operator, x), [0, 1])
    np.testing.assert_allclose(outcomes(evolution), truth(circuit), atol=1e-9)


@row("An angle in a gate's definition holds")
def hidden(refused):
    gate, circuit = Gate("mine", 1, []), turned()
    gate.definition = QuantumCircuit(1)
    gate.definition.ry(y, 0)
    circuit.append(gate, [0])
    with refused():
        Ansatz(circuit, [x])
    circuit, right, block = turned(), turned(), QuantumCircuit(1)
    block.ry(y, 0)
    circuit.append(block.to_gate(), [0])
    right.ry(y, 0)
    same(circuit, right, values=(0.7, 0.3))


@row("Gate ... is defined by itself")
def endless(refused):
    class Endless(Gate):
        def __init__(self):
            super().__init__("loop", 1, [])

        def _define(self):
            self.definition = QuantumCircuit(1, name="loop")
            self.definition.append(Endless(), [0])

    circuit = turned()
    circuit.append(Endless(), [1])
    with refused():
        Ansatz(circuit, [x])
    ending = Endless()
    ending.definition = QuantumCircuit(1)
    ending.definition.h(0)
    circuit = turned()
    circuit.append(ending, [1])
    same(circuit)


def resetting(before):
    block = QuantumCircuit(1, name="block")
    block.ry(before, 0)
    block.reset(0)
    return block.to_instruction()


@row("Gate ... measures or resets qubits")
def controlled_reset(refused):
    circuit = turned()
    circuit.append(AnnotatedOperation(resetting(0.3), ControlModifier(1)), [0, 1])
    with refused():
        Ansatz(circuit, [x])
    circuit = turned()
    circuit.append(RYGate(0.3).control(1), [0, 1])
    same(circuit)


@row("A measurement or reset has no inverse")
def inverted_reset(refused):
    circuit = turned()
    circuit.append(AnnotatedOperation(resetting(0.3), InverseModifier()), [1])
    with refused():
        Ansatz(circuit, [x])
    circuit, right = turned(), turned()
    circuit.append(AnnotatedOperation(RYGate(0.3), InverseModifier()), [1])
    right.ry(-0.3, 1)
    same(circuit, right)


@row("Gate ... with modifiers ... cannot be decomposed")
def modifiers(refused):
    circuit = turned()
    circuit.append(AnnotatedOperation(RYGate(0.3), [ControlModifier(1), PowerModifier(0.5)]), [0, 1])
    with refused():
        Ansatz(circuit, [x])
    circuit, right = turned(), turned()
    circuit.append(RYGate(0.3).control(1).power(0.5), [0, 1])
    right.cry(0.15, 0, 1)
    same(circuit, right)


@row("Angle ... has complex numbers")
def complex_numbers(refused):
    circuit = turned()
    circuit.rx((1j * x).exp(), 1)  # of which the real part is meant
    with refused():
        Ansatz(circuit, [x])
    circuit = turned()
    circuit.rx(x.cos(), 1)
    same(circuit)


@row("The circuit carries a layout that Qiskit cannot read")
def unreadable(refused):
    circuit = routed(asymmetric())
    back = qasm3.loads(qasm3.dumps(circuit))
    with refused():
        Ansatz(back, list(back.parameters))
    same(asymmetric())
    same(plain(back))


@row("The circuit carries the layout of another circuit")
def widened(refused):
    circuit, wider = routed(asymmetric()), QuantumCircuit(1)
    circuit.add_register(QuantumRegister(1))
    with refused():
        Ansatz(circuit, [x])
    wider = QuantumCircuit(4).compose(asymmetric(), range(3))
    np.testing.assert_allclose(
        outcomes(transpile(wider, basis_gates=["rz", "ry", "rx", "cx"])), truth(wider), atol=1e-9
    )
    same(plain(circuit))


@row("By its name ... the circuit was reversed after it was transpiled")
def reversed_late(refused):
    with refused():
        Ansatz(routed(asymmetric()).reverse_ops(), [x])
    reversed_before = routed(asymmetric().reverse_ops())
    with refused():
        Ansatz(reversed_before, [x])
    reversed_before.name = "mine"
    same(reversed_before, asymmetric().reverse_ops())
    same(plain(routed(asymmetric()).reverse_ops()))


@row("The circuit was transpiled, and qubits that its layout calls ancillas do not end in 0")
def excited(refused):
    circuit = routed(asymmetric())
    (ancilla,) = set(range(4)) - set(circuit.layout.final_index_layout())
    circuit.h(ancilla)
    with refused():
        Ansatz(circuit, [x])
    before = QuantumCircuit(4).compose(asymmetric(), range(3))
    before.h(3)
    same(routed(before), before)


@row("The transpiled circuit uses ... qubits besides its own")
def unchecked(refused):
    circuit = routed(asymmetric())
    (ancilla,) = set(range(4)) - set(circuit.layout.final_index_layout())
    circuit.rz(0.3, ancilla)
    circuit.reset(circuit.layout.final_index_layout()[0])
    with refused():
        Ansatz(circuit, [x])
    before = asymmetric()
    before.reset(0)
    assert Ansatz(before, [x]).normal_form.resets


@row("no message: Qiskit drops the layout, and outcome bit k is physical qubit k")
def dropped(_):
    for change in (QuantumCircuit.inverse, QuantumCircuit.reverse_bits, QuantumCircuit.decompose):
        changed = change(routed(asymmetric()))
        assert changed.layout is None
        same(changed)  # of physical qubits
        before = change(asymmetric())
        same(routed(before), before)
        same(before)


@row("no message: the layout is that of the second one alone, and the qubits before it are physical ones")
def twice_transpiled(_):
    once = routed(asymmetric())
    again = transpile(once, basis_gates=["rz", "ry", "rx", "cx"], optimization_level=0)
    assert Ansatz(again, [x]).num_qubits == 4
    same(again, once)  # of physical qubits
    same(once, asymmetric())
    same(asymmetric())


@row("name conflict adding parameter (Qiskit)")
def names(refused):
    from qiskit.circuit.exceptions import CircuitError

    first = real_amplitudes(2, reps=1)
    with refused(CircuitError):
        first.compose(real_amplitudes(2, reps=1))
    with refused(CircuitError):
        turned().ry(Parameter("x"), 1)
    second = real_amplitudes(2, reps=1, parameter_prefix="w")
    assert Ansatz(first.compose(second), list(first.parameters), list(second.parameters)).num_weights == 4
    shared = turned()
    shared.ry(x, 1)
    same(shared)


@row("Invalid observable")
def observable(refused):
    for name in (
        "Z2",
        "Z0Z0",
        "ZZ",
        {"X0": float("nan")},
        SparsePauliOp("Z"),
        SparsePauliOp("ZZ", 1j),
        {},
        3,
        SparsePauliOp("ZZ", [x]),
    ):
        with refused():
            QuantumLayer(Ansatz(turned(), [x]), "expectations", observables=[name])
    right = Statevector(turned().assign_parameters([0.7])).expectation_value(SparsePauliOp("YX", 0.5)).real
    for name in ({"X0Y1": 0.5}, SparsePauliOp("YX", 0.5)):
        read = QuantumLayer(Ansatz(turned(), [x]), "expectations", observables=[name])(torch.tensor([[0.7]]))
        assert read.item() == pytest.approx(right, abs=1e-6)


@row("Invalid observable: ... here it must be a product of Z")
def of_x(refused):
    for name in ("X0", "Y1", "Z0X1"):
        with refused():
            LightConeSurrogate.fit(QuantumNetwork(Ansatz(turned(), [x])), observables=[name])
    for label, gates in (("X", ["h"]), ("Y", ["sdg", "h"])):
        circuit = turned()
        circuit.rz(0.4, 0)
        right = Statevector(circuit.assign_parameters([0.7])).expectation_value(SparsePauliOp(f"I{label}")).real
        for gate in gates:
            getattr(circuit, gate)(0)
        read = QuantumLayer(Ansatz(circuit, [x]), "expectations", observables=["Z0"])(torch.tensor([[0.7]]))
        assert read.item() == pytest.approx(right, abs=1e-6)


@row("Invalid observables: ... at least one")
def no_observables(refused):
    for wrong in ([], 3):
        with refused():
            QuantumLayer(Ansatz(turned(), [x]), "expectations", observables=wrong)
    with refused():
        LightConeSurrogate.fit(QuantumNetwork(Ansatz(turned(), [x])), observables=[])
    assert QuantumLayer(Ansatz(turned(), [x]), "expectations").observables == ("Z0", "Z1")
    for right in (["Z1"], "Z1", SparsePauliOp("ZI")):
        QuantumLayer(Ansatz(turned(), [x]), "expectations", observables=right)


@row("Invalid observables: they need")
def of_probabilities(refused):
    with refused():
        QuantumLayer(Ansatz(turned(), [x]), observables=["Z0"])
    QuantumLayer(Ansatz(turned(), [x]), output="expectations", observables=["Z0"])


@row("Invalid noise: ... it has")
def unknown_noise(refused):
    with refused():
        QuantumLayer(Ansatz(turned(), [x]), noise={"thermal": 0.1})
    every = {"depolarizing": 0.1, "dephasing": 0.1, "twirled_amplitude_damping": 0.1, "readout": 0.1}
    QuantumLayer(Ansatz(turned(), [x]), noise=every)(torch.zeros(1, 1))


@row("Invalid ...: ... it must be between 0 and 1")
def improbable(refused):
    for wrong in ({"readout": -0.1}, {"dephasing": [0.1, 0.1]}):
        with refused():
            QuantumLayer(Ansatz(turned(), [x]), noise=wrong)
    for right in ({"readout": 1}, {"readout": [0.1, 0.2]}):
        QuantumLayer(Ansatz(turned(), [x]), noise=right)(torch.zeros(1, 1))


@row("Invalid noise: ... write for example")
def bare_noise(refused):
    with refused():
        QuantumLayer(Ansatz(turned(), [x]), noise=0.01)
    for right in ({"depolarizing": 0.01}, PauliNoise(depolarizing=0.01)):
        QuantumLayer(Ansatz(turned(), [x]), noise=right)


@row("Invalid noise: it is of the simulator")
def noise_of_a_sampler(refused):
    with refused():
        QuantumLayer(Ansatz(turned(), [x]), noise={"readout": 0.1}, engine=AerSampler())
    QuantumLayer(Ansatz(turned(), [x]), engine=AerSampler(noise="depolarizing"))(torch.zeros(1, 1))


@row("Invalid state: ... it must be real or complex amplitudes")
def wrong_state(refused):
    layer = QuantumLayer(Ansatz(turned(), [x]))
    for wrong in (torch.ones(2, 4), torch.ones(1, 4, dtype=torch.int64)):
        with refused():
            layer(torch.zeros(1, 1), state=wrong)
    for dtype in (torch.float32, torch.complex64):
        layer(torch.zeros(1, 1), state=3 * torch.ones(1, 4, dtype=dtype))


@row("Invalid state: a sampler starts from 0")
def state_of_a_sampler(refused):
    with refused():
        QuantumLayer(Ansatz(turned(), [x]), engine=ExactSampler())(torch.zeros(1, 1), state=torch.ones(1, 4))
    encoded = QuantumLayer("ring", engine=ExactSampler(), circuit={"num_qubits": 2, "encoding": "amplitude"})
    assert encoded(torch.ones(1, 4)).shape == (1, 4)


@row("Invalid state: the circuit was transpiled")
def state_of_ancillas(refused):
    circuit = routed(asymmetric())
    (ancilla,) = set(range(4)) - set(circuit.layout.final_index_layout())
    circuit.rz(0.3, ancilla)
    with refused():
        QuantumLayer(Ansatz(circuit, [x]))(torch.zeros(1, 1), state=torch.ones(1, 8))
    QuantumLayer(Ansatz(asymmetric(), [x]))(torch.zeros(1, 1), state=torch.ones(1, 8))


@row("Invalid initial: 'identity' needs")
def identity(refused):
    with refused():
        QuantumLayer("ring", initial="identity")
    QuantumLayer("ring", circuit={"identity_blocks": True}, initial="identity")


@row("Invalid initial: cannot read")
def initial_file(refused):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "w.npy").write_text("0.5")
        with refused():
            QuantumLayer(Ansatz(turned(), [], [x]), initial=path / "w.npy")
        np.save(path / "w.npy", [0.5])
        torch.save(torch.tensor([0.5]), path / "w.pt")
        for name in ("w.npy", "w.pt"):
            QuantumLayer(Ansatz(turned(), [], [x]), initial=path / name)


@row("Invalid encode")
def half_an_encoding(refused):
    for half in ({"encode": torch.sin}, {"num_inputs": 1}):
        with refused():
            Ansatz(turned(), [x], **half)
    QuantumLayer(Ansatz(turned(), [x], encode=torch.sin, num_inputs=1))(torch.zeros(1, 1))


@row("Invalid encoding: ... returned")
def encoding_of_another_shape(refused):
    with refused():
        QuantumLayer(Ansatz(turned(), [x], encode=torch.sin, num_inputs=2))(torch.zeros(1, 2))
    QuantumLayer(Ansatz(turned(), [x], encode=partial(torch.sum, dim=1, keepdim=True), num_inputs=2))(torch.zeros(1, 2))


@row("The circuit's angles are computed by")
def series_of_a_function(refused):
    ansatz = Ansatz(turned(), [x], encode=torch.sin, num_inputs=1)
    with refused():
        FourierSurrogate.fit(QuantumNetwork(ansatz))
    QuantumLayer(ansatz)(torch.zeros(1, 1))


@row("Invalid output")
def output(refused):
    with refused():
        QuantumLayer(Ansatz(turned(), [x]), "amplitudes")
    for right in ("probabilities", "expectations"):
        QuantumLayer(Ansatz(turned(), [x]), right)


@row("Invalid ansatz: a QuantumCircuit")
def bare(refused):
    with refused():
        QuantumLayer(turned())
    QuantumLayer(Ansatz(turned(), [x], []))


@row("Invalid engine: ... it must be")
def engine(refused):
    ansatz = Ansatz(turned(), [x])
    for wrong in ("aer", AerSampler):
        with refused():
            QuantumLayer(ansatz, engine=wrong)
    with refused():
        CircuitSimulator(ansatz, engine="aer")
    for right in ("simulator", AerSampler(), QuantumNetwork(ansatz, AerSampler())):
        QuantumLayer(ansatz, engine=right)(torch.zeros(1, 1))


@row("Invalid initial")
def initial(refused):
    ansatz = Ansatz(turned(), [], [x])
    for wrong in ("zeros", [0.0, 0.0]):
        with refused():
            QuantumLayer(ansatz, initial=wrong)
    for right in ("uniform", "normal", "small", [0.5]):
        QuantumLayer(ansatz, initial=right)()


@row("Invalid engine: the network runs another ansatz")
def other_network(refused):
    network = QuantumNetwork(Ansatz(turned(3), [x]))
    with refused():
        QuantumLayer(Ansatz(turned(), [x]), engine=network)
    QuantumLayer(network.ansatz, engine=network)


@row("Invalid repeats")
def no_directions(refused):
    with refused():
        SPSANetwork(Ansatz(turned(), [x]), repeats=0)
    SPSANetwork(Ansatz(turned(), [x]), repeats=1)


@row("Invalid step")
def no_step(refused):
    with refused():
        SPSANetwork(Ansatz(turned(), [x]), step=0)
    SPSANetwork(Ansatz(turned(), [x]), step=0.3)


@row("Circuits are differentiable once")
def second_derivatives(refused):
    ansatz, inputs = Ansatz(turned(), [x]), torch.full((1, 1), 0.7, requires_grad=True)

    def slope(engine):
        layer = QuantumLayer(ansatz, "expectations", engine, observables=["Z0"])
        return torch.autograd.grad(layer(inputs).sum(), inputs, create_graph=True)[0]

    with refused(RuntimeError):
        slope(QuantumNetwork(ansatz))
    (curvature,) = torch.autograd.grad(slope("simulator").sum(), inputs)
    assert curvature.item() == pytest.approx(-np.cos(0.7), abs=1e-6)


@row("Invalid ansatz: ... qubits")
def many_qubits(refused):
    ansatz = Ansatz(turned(13), [x])
    with refused():
        CircuitSimulator(ansatz)
    with refused():
        CircuitSimulator(ansatz, engine="native").reference(torch.zeros(1, 1), torch.zeros(0))
    with refused():
        TorchEngine(ansatz.normal_form)
    with refused():
        QuantumLayer(Ansatz(turned(21), [x]), engine="native")
    assert QuantumNetwork(ansatz, AerSampler(shots=10)).probabilities([[0.0]])[0, 0] == 1


@row("Invalid ansatz: ... outcomes fit in no memory")
def many_outcomes(refused):
    with refused():
        QuantumNetwork(Ansatz(turned(25), [x]))
    QuantumNetwork(Ansatz(turned(24), [x]))


def with_reset():
    circuit = turned()
    circuit.cx(0, 1)
    circuit.reset(0)
    return circuit


@row("The circuit has a reset, which makes mixed states")
def simulated_reset(refused):
    ansatz = Ansatz(with_reset(), [x])
    with refused():
        QuantumLayer(ansatz)
    right = DensityMatrix(with_reset().assign_parameters([0.7])).probabilities()
    sampled = QuantumNetwork(ansatz, AerSampler(shots=10_000)).probabilities([[0.7]])[0]
    np.testing.assert_allclose(sampled, right, atol=0.02)
    fresh = turned(3)
    fresh.cx(0, 1)  # from here on qubit 2 stands for qubit 0
    np.testing.assert_allclose(outcomes(fresh).reshape(4, 2).sum(1), right[[0, 2, 1, 3]], atol=1e-9)


@row("The circuit has a reset, which ... cannot run")
def sampled_reset(refused):
    ansatz = Ansatz(with_reset(), [x])
    for sampler in (None, ExactSampler(), StatevectorSampler()):
        with refused():
            QuantumNetwork(ansatz, sampler)
    for sampler in (AerSampler(shots=10), FakeBackendSampler(shots=10)):
        assert QuantumNetwork(ansatz, sampler).probabilities([[0.7]]).sum() == pytest.approx(1)


@row("Invalid sampler")
def sampler(refused):
    with refused():
        QuantumNetwork(Ansatz(turned(), [x]), "AerSampler")
    QuantumNetwork(Ansatz(turned(), [x]), AerSampler())


@row("Invalid inputs")
def inputs(refused):
    with refused():
        QuantumNetwork(Ansatz(QuantumCircuit(1))).probabilities(np.zeros((2, 0)))
    for wrong in ({x}, x, None, ["x"]):
        with refused():
            Ansatz(turned(), wrong)
    ansatz = Ansatz(turned(), (p for p in [x]))
    series = FourierSurrogate.fit(QuantumNetwork(ansatz))
    for each in (QuantumLayer(ansatz), CircuitSimulator(ansatz), series):
        for wrong in (torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.int64)):
            with refused():
                each(wrong)
        assert each(torch.zeros(3, 1)).shape == (3, 4)
    network = QuantumNetwork(ansatz)
    for wrong in ([[0.0, 0.0]], [[np.nan]]):
        with refused():
            network.probabilities(wrong)
    assert network.probabilities(np.zeros((3, 1))).shape == (3, 4)


@row("Invalid weights")
def weights(refused):
    circuit = turned()
    circuit.ry(y, 1)
    ansatz = Ansatz(circuit, [x], [y])
    for wrong in (torch.zeros(2), torch.zeros(1).double()):
        with refused():
            CircuitSimulator(ansatz)(torch.zeros(1, 1), wrong)
    with refused():
        QuantumNetwork(ansatz).probabilities([[0.0]], [0.0, 0.0])
    with refused():
        QuantumLayer(ansatz)(torch.zeros(1, 1), torch.zeros(2))
    assert CircuitSimulator(ansatz)(torch.zeros(1, 1), torch.zeros(1)).shape == (1, 4)
    assert QuantumNetwork(ansatz).probabilities([[0.0]], [0.0]).shape == (1, 4)


@row("This ansatz has ... weights")
def no_weights(refused):
    circuit = turned()
    circuit.ry(y, 1)
    network = QuantumNetwork(Ansatz(circuit, [x], [y]))
    with refused():
        network.probabilities([[0.0]])
    network.probabilities([[0.0]], [0.0])


@row("The circuit measures nothing")
def unmeasured(refused):
    circuit = turned().assign_parameters([0.7])
    with refused():
        ShotSampler().run([circuit])
    circuit.measure_all()
    assert ShotSampler(10).run([circuit]).result()[0].data.meas.num_shots == 10


@row("Invalid shots")
def shots(refused):
    for wrong in (0, None, 10.0):
        with refused():
            AerSampler(shots=wrong)
    series = FourierSurrogate.fit(QuantumNetwork(Ansatz(turned(), [x])))
    with refused():
        series.sample(torch.zeros(1, 1), 0, np.random.default_rng(0))
    series.sample(torch.zeros(1, 1), 1, np.random.default_rng(0))
    exact = QuantumNetwork(Ansatz(turned(), [x]), ExactSampler()).probabilities([[0.7]])[0]
    np.testing.assert_allclose(exact, truth(turned()), atol=1e-9)


@row("Invalid seed")
def seed(refused):
    with refused():
        AerSampler(seed=-1)
    AerSampler(seed=0)


@row("Invalid noise")
def noise(refused):
    with refused():
        AerSampler(noise="loud")
    for right in ("readout", "FakeManilaV2", AerSampler(noise="thermal").backend.options.noise_model):
        AerSampler(noise=right)


@row("Invalid name")
def device_name(refused):
    ansatz = Ansatz(turned(), [x])
    with refused():
        QuantumNetwork(ansatz, FakeBackendSampler("FakeManilla"))
    QuantumNetwork(ansatz, FakeBackendSampler("FakeManilaV2"))


@row("Invalid device")
def gpu(refused):
    ansatz = Ansatz(turned(), [x])
    with pytest.MonkeyPatch.context() as patch, refused():
        patch.setattr("lightning_qsgd.quantum.samplers.available_devices", lambda: ["CPU"])
        QuantumNetwork(ansatz, AerSampler(device="GPU"))
    QuantumNetwork(ansatz, AerSampler(device="CPU"))


@row("Invalid initial_layout")
def physical_qubits(refused):
    ansatz, manila = Ansatz(turned(), [x]), FakeBackendSampler("FakeManilaV2", shots=10)
    with refused():
        QuantumNetwork(ansatz, manila, initial_layout=[0, 1, 2])
    QuantumNetwork(ansatz, manila, initial_layout=[3, 2]).probabilities([[0.0]])


@row("Invalid sampler: ... has ... qubits")
def small_device(refused):
    ansatz = Ansatz(turned(6), [x])
    with refused():
        QuantumNetwork(ansatz, FakeBackendSampler("FakeManilaV2"))
    QuantumNetwork(ansatz, FakeBackendSampler("FakeJakartaV2", shots=10)).probabilities([[0.0]])


def own(circuit, inputs, weights=(), fixed=None):
    """A perturbation with this circuit."""

    class Own(CircuitPerturbation):
        ansatz = Ansatz(circuit, inputs, weights)

    if fixed is not None:
        Own.weights = np.array(fixed)
    return Own


def answer(perturbation, num_qubits=2):
    return perturbation(torch.full((1, num_qubits), 0.7), step=0)


def pair(first, second):
    circuit = QuantumCircuit(2)
    circuit.ry(first, 0)
    circuit.ry(second, 1)
    return circuit


@row("Angle ... is not linear in")
def not_linear(refused):
    circuit = pair(a[0] * a[1], a[1])
    with refused():
        answer(own(circuit, list(a))(num_qubits=2))
    s = answer(live(own(circuit, list(a)))(num_qubits=2))
    np.testing.assert_allclose(s, [[-np.cos(0.49), -np.cos(0.7)]], atol=1e-6)
    assert QuantumLayer(Ansatz(circuit, list(a)))(torch.zeros(1, 2)).shape == (1, 4)


@row("Input ... enters a gate by the angle")
def fraction(refused):
    circuit = pair(0.5 * a[0], a[1])
    with refused():
        answer(own(circuit, list(a))(num_qubits=2))
    s = answer(live(own(circuit, list(a)))(num_qubits=2))
    np.testing.assert_allclose(s, [[-np.cos(0.35), -np.cos(0.7)]], atol=1e-6)
    whole = answer(own(pair(a[0], a[1]), list(a))(num_qubits=2))
    np.testing.assert_allclose(whole, [[-np.cos(0.7), -np.cos(0.7)]], atol=1e-6)


@row("The circuit has no inputs")
def no_inputs(refused):
    ansatz = Ansatz(turned(), [], [x])
    with refused():
        FourierSurrogate.fit(QuantumNetwork(ansatz), [0.7])
    np.testing.assert_allclose(QuantumLayer(ansatz, initial=[0.7])()[0].detach(), truth(turned()), atol=1e-6)


@row("The surrogate of this circuit needs")
def large_grid(refused):
    with refused():
        answer(CircuitPerturbation(4, depth=6, rotations="zero"), 4)
    for smaller in (
        {"num_qubits": 2, "depth": 6},
        {"num_qubits": 4, "depth": 1},
    ):
        assert answer(CircuitPerturbation(rotations="zero", **smaller), smaller["num_qubits"]).isfinite().all()
    assert answer(LiveCircuitPerturbation(4, depth=6, rotations="zero"), 4).isfinite().all()


@row("Invalid ansatz: that of ...")
def other_sizes(refused):
    ancilla, three = QuantumCircuit(3).compose(pair(a[0], a[1])), Vector("a", 3)
    ancilla.cx(0, 2)
    for wrong in (own(ancilla, list(a)), own(pair(a[0], a[0]), [a[0]])):
        with refused():
            wrong(num_qubits=2)
    assert answer(own(pair(a[0], a[1]), list(a))(num_qubits=2)).shape == (1, 2)
    given = QuantumCircuit(3)
    for q in range(3):
        given.ry(three[q], q)
    given.cx(0, 2)
    right = [[-np.cos(0.7), -np.cos(0.7), -(np.cos(0.7) ** 2)]]
    np.testing.assert_allclose(answer(own(given, list(three))(num_qubits=3), 3), right, atol=1e-6)


@row("Invalid weights: ...; the circuit of")
def number_of_values(refused):
    kind = own(pair(a[0] + y, a[1]), list(a), [y], [0.2, 0.3])
    with refused():
        kind(num_qubits=2)
    kind.weights = np.array([0.2])
    np.testing.assert_allclose(answer(kind(num_qubits=2)), [[-np.cos(0.9), -np.cos(0.7)]], atol=1e-6)


@row("Invalid weights: none")
def no_values(refused):
    circuit = pair(a[0] + y, a[1])
    with refused():
        answer(own(circuit, list(a), [y])(num_qubits=2))
    given = answer(own(circuit, list(a), [y], [0.2])(num_qubits=2))
    np.testing.assert_allclose(given, [[-np.cos(0.9), -np.cos(0.7)]], atol=1e-6)


@row("Invalid rotations: 'random'")
def rotations(refused):
    kind = own(pair(a[0], a[1]), list(a))
    with refused():
        kind(num_qubits=2, rotations="random")
    answer(kind(num_qubits=2))


@row("Invalid rotations: ... angles")
def number_of_rotations(refused):
    with refused():
        CircuitPerturbation(num_qubits=2, depth=2, rotations=[0.0] * 5)
    CircuitPerturbation(num_qubits=2, depth=2, rotations=[0.0] * 6)


@row("A live step would run")
def live_circuits(refused):
    angles = torch.zeros(3, 2)
    with refused():
        LiveCircuitPerturbation(num_qubits=2, max_circuits=2)(angles, step=0)
    LiveCircuitPerturbation(num_qubits=2, max_circuits=3)(angles, step=0)
    LiveCircuitPerturbation(num_qubits=2, max_circuits=2)(angles[:2], step=0)
    CircuitPerturbation(num_qubits=2)(angles, step=0)


@row("A live displacement would run")
def live_displacements(refused):
    angles, rng = torch.zeros(3, 2), np.random.default_rng(0)
    with refused():
        LiveCircuitPerturbation(num_qubits=2, max_circuits=2).single_shot(angles, rng, (0,))
    for circuit in (LiveCircuitPerturbation(num_qubits=2, max_circuits=3), CircuitPerturbation(num_qubits=2)):
        bits, mean = circuit.single_shot(angles, rng, (0,))
        assert bits.shape == mean.shape == (3, 2)


@row("Invalid weights: some are not finite")
def weights_that_are_not_finite(refused):
    circuit = LiveCircuitPerturbation(num_qubits=2)
    with refused():
        circuit(torch.tensor([[0.1, float("nan")]]), step=0)
    assert circuit(torch.tensor([[0.1, 0.2]]), step=0).isfinite().all()


@row("Invalid decode_chain")
def decode(refused):
    with refused():
        CircuitPerturbation(entanglement="none", decode_chain=True)
    CircuitPerturbation(entanglement="none")


@row("Invalid num_qubits")
def num_qubits(refused):
    with refused():
        superposition_circuit(num_qubits=0)
    with refused():
        ScoreSeries(1, num_qubits=13)
    superposition_circuit(num_qubits=1)


@row("Invalid depth")
def depth(refused):
    with refused():
        superposition_circuit(depth=0)
    superposition_circuit(depth=1)


@row("Invalid entanglement")
def entanglement(refused):
    with refused():
        superposition_circuit(entanglement="ring")
    for right in ("linear", "none"):
        superposition_circuit(entanglement=right)


@row("Invalid encoding")
def encoding(refused):
    with refused():
        layered_circuit(encoding="amplitude")
    for right in ("angle", "reuploading"):
        layered_circuit(encoding=right)


@row("Calibration ... is of another circuit")
def calibration(refused):
    measured, other = (Ansatz(circuit, list(a)) for circuit in (pair(a[0], a[1]), pair(a[0], 2 * a[1])))
    network = QuantumNetwork(measured)
    found: Calibration = calibrate(network, held_out=2, references=3)
    with refused():
        found.check(other, [], "mine.npz")
    calibrate(QuantumNetwork(other), held_out=2, references=3).check(other, [], "mine.npz")


@pytest.mark.parametrize("cells", ROWS, ids=lambda cells: cells[0][:60])
def test_each_row_is_raised_and_its_way_out_works(cells):
    what, message, instead = cells
    assert what
    assert instead
    run(message.replace("`", ""))


def test_each_case_has_a_row():
    assert CASES.keys() == {message.replace("`", "") for _, message, _ in ROWS}


def refusals(path):
    """(line, pattern) of each ValueError that a file raises."""
    tree = ast.parse((ROOT / "lightning_qsgd" / path).read_text())
    skipped = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.ClassDef) and function.name in NEVER_SEEN
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        raised = node.exc if isinstance(node, ast.Raise) and id(node) not in skipped else None
        if isinstance(raised, ast.Call) and isinstance(raised.func, ast.Name) and raised.func.id == "ValueError":
            (text,) = raised.args
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            pattern = "".join(re.escape(p.value) if isinstance(p, ast.Constant) else ".*" for p in parts)
            yield f"{path}:{node.lineno}", pattern


def test_the_table_has_every_refusal():
    messages = [message for case in CASES for message in run(case)]
    for place, pattern in [found for path in FILES for found in refusals(path)]:
        assert any(re.fullmatch(pattern, message, re.DOTALL) for message in messages), f"{place}: {pattern}"
