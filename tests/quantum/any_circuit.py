"""Random circuits over all of Qiskit's standard gates, with what Qiskit's own statevector says of them.

A twin is the same circuit for Qiskit's statevector. It differs in one thing: where a block that is named like a
standard gate is controlled, Qiskit 2.6 controls the standard gate of that name; the twin has the right matrix.
"""

from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import AnnotatedOperation, ControlModifier, InverseModifier, ParameterVector, PowerModifier
from qiskit.circuit.library import UnitaryGate, get_standard_gate_name_mapping
from qiskit.quantum_info import Operator, Statevector, random_unitary
from qiskit.transpiler import CouplingMap, generate_preset_pass_manager

STANDARD = {
    name: gate for name, gate in get_standard_gate_name_mapping().items() if name not in ("measure", "reset", "delay")
}
CONTROLLED = ["x", "h", "p", "rx", "ry", "rz", "u", "r", "s", "sx", "sxdg", "y", "swap", "rzz", "rxx", "cx", "iswap"]
KINDS = (
    [f"gate {name}" for name in STANDARD]
    + [f"controlled {name}" for name in CONTROLLED]
    + ["open controls", "block named as a gate", "controlled block named as a gate", "unitary"]
    + ["annotated control", "annotated inverse", "annotated power"]
)
#: Couplings of 4 and 5 qubits, with initial layouts of 4; a third of the circuits keep their qubits.
PLACES = [{} for _ in range(5)] + [
    {"coupling_map": shape(size), "initial_layout": layout}
    for size, layouts in ((4, [[0, 1, 2, 3], [2, 0, 3, 1]]), (5, [[4, 3, 2, 1], [2, 0, 4, 1], [3, 1, 0, 2]]))
    for layout in layouts
    for shape in (CouplingMap.from_line, CouplingMap.from_ring)
]
used: Counter[str] = Counter()


class Case(NamedTuple):
    """A circuit, its twin, and values of its parameters."""

    circuit: QuantumCircuit
    twin: QuantumCircuit
    inputs: list
    weights: list
    kinds: list[str]
    transpiled: bool

    def values(self, seed):
        """Random inputs (2, 2) and weights (2,)."""
        rng = np.random.default_rng(seed)
        return rng.uniform(-2, 2, (2, 2)), rng.uniform(-2, 2, 2)

    def probabilities(self, inputs, weights):
        """What Qiskit's statevector says, (rows, 2**n)."""
        named = [*self.inputs, *self.weights]
        rows = [dict(zip(named, [*row, *weights], strict=True)) for row in inputs]
        return np.stack([Statevector(self.twin.assign_parameters(row)).probabilities() for row in rows])


def expressions(x, w):
    """Angles: numbers, linear in the parameters, and all else."""
    return [
        0.7, x[0], -x[1], w[0] + 1, 3 * w[1] - x[0], 0.5 * x[1], 2 * x[0] * x[1], (np.pi - x[0]) * (np.pi - x[1]),
        w[0].sin(), x[0] ** 2 / 3, (w[1] / 2).exp(), x[1].abs(), x[0] * w[1], x[0].arctan(), x[0].cos() * w[0] + x[1],
    ]  # fmt: skip


def group(number):
    """8 kinds; each kind is in at least two of the groups 0 to 19."""
    return [KINDS[(8 * number + k) % len(KINDS)] for k in range(8)]


@cache  # building one takes longer than running it
def transpiler(level, basis, place):
    return generate_preset_pass_manager(level, basis_gates=basis.split(), seed_transpiler=0, **PLACES[place])


@st.composite
def cases(draw, kinds):
    """A case of 4 qubits with these kinds of gates."""
    x, w = ParameterVector("x", 2), ParameterVector("w", 2)
    angles = expressions(x, w)
    pair = QuantumCircuit(4), QuantumCircuit(4)

    def append(operation, qubits, twin=None):
        pair[0].append(operation, qubits)
        pair[1].append(operation if twin is None else twin, qubits)

    def standard(name):
        gate = STANDARD[name]
        return gate.base_class(*[draw(st.sampled_from(angles)) for _ in gate.params]) if gate.params else gate

    for circuit in pair:
        circuit.h(range(4))
        circuit.ry(x[0] - w[0], 0)
        circuit.rx(2 * x[1] + 0.5 * w[1] + 0.3, 3)
    transpiled = draw(st.booleans())
    names = ["block"] if transpiled else ["x", "h", "s", "swap", "cx", "rz", "ry", "id", "u"]  # transpilers need others
    kinds = draw(st.permutations(kinds))
    for kind in kinds:
        qubits = draw(st.permutations(range(4)))
        family, _, name = kind.partition(" ")
        twin = None
        if family == "gate":
            operation = standard(name)
        elif family == "controlled" and name in STANDARD:
            operation = standard(name).control(draw(st.integers(1, 4 - STANDARD[name].num_qubits)))
        elif kind == "open controls":
            gate = standard(draw(st.sampled_from(["cx", "cz", "cp", "crx", "cu", "cswap", "ccx", "ch", "csx", "cu3"])))
            operation = gate.to_mutable()
            operation.ctrl_state = draw(st.integers(0, 2**gate.num_ctrl_qubits - 2))
        elif kind == "unitary":
            operation = UnitaryGate(random_unitary(2 ** draw(st.integers(1, 2)), seed=draw(st.integers(0, 99))))
        elif family == "annotated":
            base = standard(draw(st.sampled_from(["rx", "u", "s", "crz", "rzz", "swap"])))
            modifier = {
                "control": ControlModifier(1, draw(st.integers(0, 1))),
                "inverse": InverseModifier(),
                "power": PowerModifier(draw(st.sampled_from([-1, 2, 3]))),
            }[name]
            operation = AnnotatedOperation(base, modifier)
            used[f"annotated {base.name}"] += 1
            reference = {
                "control": lambda base=base, m=modifier: base.control(1, ctrl_state=m.ctrl_state),
                "inverse": base.inverse,
                "power": lambda base=base, m=modifier: _repeated(base, m.power),
            }[name]
            twin = reference()
        else:
            size = draw(st.integers(1, 2))
            parametrised = kind == "block named as a gate"
            clashing = names
            if not parametrised and not transpiled:  # Qiskit fails to control blocks of other names
                clashing = ["x", "h", "s"] if size == 1 else ["swap", "cx"]
            block = QuantumCircuit(size, name=draw(st.sampled_from(clashing)))
            block.ry(draw(st.sampled_from(angles)) if parametrised else 0.4, 0)
            if size == 2:
                block.cp(draw(st.sampled_from(angles)) if parametrised else 1.1, 1, 0)
            block.rx(0.3, size - 1)
            operation = block.to_gate()
            if not parametrised:
                matrix = _controlled(Operator(block).data)
                operation, twin = operation.control(1), UnitaryGate(matrix)
        append(operation, qubits[: operation.num_qubits], twin)
        used[kind] += 1
    circuit = pair[0]
    if transpiled:
        level, place = draw(st.integers(0, 3)), draw(st.sampled_from(range(len(PLACES))))
        basis = draw(st.sampled_from(["rz sx x cx", "u cz", "rz ry rx cx swap"]))
        try:
            circuit = transpiler(level, basis, place).run(pair[1])
        except TypeError:  # Qiskit 2.6.2 at level 3, where angles of neighbours cancel
            circuit = transpiler(2, basis, place).run(pair[1])
    return Case(circuit, pair[1], list(x), list(w), kinds, transpiled)


def _controlled(matrix):
    """The control is qubit 0."""
    size = len(matrix)
    out = np.eye(2 * size, dtype=complex)
    out[1::2, 1::2] = matrix
    return out


def _repeated(gate, power):
    block = QuantumCircuit(gate.num_qubits)
    for _ in range(abs(power)):
        block.append(gate if power > 0 else gate.inverse(), range(gate.num_qubits))
    return block.to_gate()
