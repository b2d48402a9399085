# pyright: reportInvalidTypeForm=false, reportAttributeAccessIssue=false
# (Qiskit's Parameter and ParameterExpression come from a compiled module without types.)
"""The normal form of a circuit: a fixed skeleton over a small basis, whose angles are functions of inputs and weights.

An :class:`Ansatz` computes it once, and every engine runs it. The layout of a transpiled circuit is undone,
measurements at the end are removed, and gates are decomposed (see basis.py).

Shapes: n outcome bits, m >= n qubits, G sources.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.circuit import Barrier, Parameter, ParameterExpression
from qiskit.quantum_info import Statevector

from lightning_qsgd.quantum.angles import Angles, Encoding
from lightning_qsgd.quantum.basis import IGNORED, Angle, Gate, Parts, Source

#: Names of the operations in circuits that were transpiled for a device, and of their inverses.
DEVICE_GATES = {"barrier", "cx", "cz", "delay", "ecr", "id", "measure", "reset", "rx", "rz", "rzz", "sx", "sxdg", "x"}
MAX_ROUTED = 20  # qubits of a routed circuit whose ancillas are checked to end in 0
_PLAIN = (
    "pass the circuit from before it was transpiled; or, if outcome bit k is to be qubit k of this one, "
    "QuantumCircuit(circuit.num_qubits).compose(circuit)"
)


@dataclass(frozen=True)
class NormalForm:
    """A circuit of gates of the basis.

    Attributes:
        num_qubits: number of qubits m. Larger than n only if a router used ancillas, which end in 0.
        num_bits: number of outcome bits n. Outcome bit k is qubit k < n.
        gates: the gates, in order.
        sources: (G,) the angles that gates depend on.
        phases: angles whose sum is the global phase.
        angles: the sources as functions of inputs and weights.
    """

    num_qubits: int
    num_bits: int
    gates: tuple[Gate, ...]
    sources: tuple[Source, ...]
    phases: tuple[Angle, ...]
    angles: Angles = field(compare=False)

    def form(self, angle: Angle) -> NDArray[np.float64]:
        """An angle of a gate as a form of inputs and weights, (1 + P,); see angles.py."""
        forms = self.angles.forms
        form = np.zeros(forms.shape[1]) if angle.source < 0 else angle.slope * forms[angle.source]
        form[0] += angle.constant
        return form

    @property
    def num_shifts(self) -> int:
        """Number of shifted circuits for the derivatives by all angles: 2 for each frequency of each source."""
        return sum(2 * len(source.frequencies) for source in self.sources)

    @property
    def resets(self) -> bool:
        """Whether the circuit resets a qubit."""
        return any(gate.name == "reset" for gate in self.gates)

    def circuit(self, values: Sequence[ParameterExpression | float] | None = None) -> QuantumCircuit:
        """The circuit in Qiskit, without its global phase, measured into a register ``meas`` of the n outcome bits.

        Args:
            values: (G,) values of the sources. Default: their expressions. The circuit then contains every parameter of
                the user's circuit, even if no outcome depends on it.
        """
        circuit = QuantumCircuit(self.num_qubits)
        if values is None:
            values = [source.expression for source in self.sources]
            for parameter in self._idle_parameters():
                circuit.rz(parameter, 0)  # a global phase: the qubit is still 0
        for gate in self.gates:
            if gate.operation is not None:
                circuit.append(gate.operation, gate.qubits)
            elif gate.angle is None:
                getattr(circuit, gate.name)(*gate.qubits)
            else:
                getattr(circuit, gate.name)(_value(gate.angle, values), *gate.qubits)
        circuit.barrier()
        register = ClassicalRegister(self.num_bits, "meas")
        circuit.add_register(register)
        circuit.measure(range(self.num_bits), register)
        return circuit

    def _idle_parameters(self) -> list[Parameter]:
        """Parameters that no gate depends on, such as those that only enter the global phase."""
        sources = {gate.angle.source for gate in self.gates if gate.angle is not None} - {-1}
        used = {parameter for source in sources for parameter in self.sources[source].expression.parameters}
        return [parameter for parameter in (*self.angles.inputs, *self.angles.weights) if parameter not in used]

    def components(self) -> list[tuple[list[int], NormalForm]]:
        """The circuit as a product of circuits that no gate connects: the qubits of each, ascending, and its form.

        Global phases are left out. There is one component if all qubits are connected.
        """
        groups = [{q} for q in range(self.num_qubits)]
        gates = [gate for gate in self.gates if gate.name not in IGNORED]
        for gate in gates:
            joined = [group for group in groups if group.intersection(gate.qubits)]
            if len(joined) > 1:
                groups = [group for group in groups if group not in joined] + [set().union(*joined)]
        found = []
        for qubits in sorted(map(sorted, groups)):
            place = {q: k for k, q in enumerate(qubits)}
            own = [g._replace(qubits=tuple(place[q] for q in g.qubits)) for g in gates if g.qubits[0] in place]
            found.append((qubits, NormalForm(len(qubits), len(qubits), tuple(own), self.sources, (), self.angles)))
        return found

    def separated(self, angles: Sequence[Parameter]) -> NormalForm:
        """The same skeleton with a parameter in place of each source."""
        sources = tuple(Source(angle, source.spectrum) for angle, source in zip(angles, self.sources, strict=True))
        return replace(self, sources=sources, angles=Angles(angles, (), angles))

    @classmethod
    def of(
        cls,
        circuit: QuantumCircuit,
        inputs: Sequence[Parameter],
        weights: Sequence[Parameter],
        encoding: Encoding | None = None,
    ) -> NormalForm:
        """Compute the normal form of a circuit.

        Raises:
            ValueError: if no engine can run the circuit, or its layout cannot be undone; the message says what to do.
        """
        physical = outcome_qubits(circuit)
        parts = Parts()
        parts.circuit(circuit, range(circuit.num_qubits))
        _check_measurements(parts)
        used = {q for gate in parts.gates if gate.name not in IGNORED for q in gate.qubits}
        idle = [bit for bit, q in enumerate(physical) if q not in used]
        if idle and DEVICE_GATES.issuperset(circuit.count_ops()):
            warnings.warn(
                f"The circuit has only gates of devices, and qubits without a gate: {_few(idle)}. Their outcome bits "
                "are always 0. If the circuit was changed or transpiled again after transpiling, Qiskit dropped its "
                "layout: pass the circuit from before",
                stacklevel=3,
            )
        kept = [*physical, *sorted(used - set(physical))]
        place = {q: k for k, q in enumerate(kept)}
        moved = []
        for gate in parts.gates:
            qubits = tuple(place[q] for q in gate.qubits if q in place)
            if not qubits:  # a barrier, delay or identity on removed qubits
                continue
            if len(qubits) != len(gate.qubits):  # a barrier on some of them
                gate = gate._replace(operation=Barrier(len(qubits)))
            moved.append(gate._replace(qubits=qubits))
        angles = Angles(inputs, weights, [source.expression for source in parts.sources], encoding)
        form = cls(len(kept), len(physical), tuple(moved), tuple(parts.sources), tuple(parts.phases), angles)
        if len(kept) > len(physical):
            form._check_ancillas()
        return form

    def _check_ancillas(self) -> None:
        """Raise ValueError unless the ancillas that the router used end in 0."""
        n, m = self.num_bits, self.num_qubits
        if m > MAX_ROUTED or self.resets:
            why = "it resets qubits" if self.resets else f"more than {MAX_ROUTED} qubits are used"
            raise ValueError(
                f"The transpiled circuit uses {m - n} qubits besides its own {n}, and whether they end in 0 cannot be "
                f"checked ({why}); {_PLAIN}"
            )
        circuit = self.circuit()
        circuit.remove_final_measurements()
        rng = np.random.default_rng(0)
        values = {parameter: rng.uniform(-np.pi, np.pi) for parameter in circuit.parameters}
        state = Statevector(circuit.assign_parameters(values)).data.reshape(-1, 2**n)
        if (excited := float((np.abs(state[1:]) ** 2).sum())) > 1e-9:
            raise ValueError(
                f"The circuit was transpiled, and qubits that its layout calls ancillas do not end in 0 (probability "
                f"{excited:.2g}): a gate was put on them afterwards; {_PLAIN}"
            )


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def _value(angle: Angle, values: Sequence[Any]) -> Any:
    if angle.source < 0:
        return angle.constant
    value = values[angle.source]
    if angle.slope != 1:
        value = angle.slope * value
    return value + angle.constant if angle.constant else value


def outcome_qubits(circuit: QuantumCircuit) -> list[int]:
    """The qubit of each outcome bit: where the transpiler moved the qubits of the original circuit.

    Raises:
        ValueError: if the layout cannot be read, or belongs to another circuit.
    """
    layout = circuit.layout
    if layout is None:
        return list(range(circuit.num_qubits))
    try:
        order = layout.final_index_layout()
    except Exception as error:  # Qiskit raises several types for layouts that it did not make
        raise ValueError(
            f"The circuit carries a layout that Qiskit cannot read ({type(error).__name__}: {error}), as after a round "
            f"trip through QASM 3; {_PLAIN}"
        ) from error
    known = layout._output_qubit_list
    if known is not None and list(known) != circuit.qubits:
        raise ValueError(f"The circuit carries the layout of another circuit, whose qubits are not its own; {_PLAIN}")
    if circuit.name.endswith("_reverse") and order != list(range(circuit.num_qubits)):
        raise ValueError(
            f"By its name {circuit.name!r} the circuit was reversed after it was transpiled, which makes its layout "
            f"wrong; if it was reversed before, give it another name, circuit.name = 'mine'; otherwise {_PLAIN}"
        )
    return order


def _check_measurements(parts: Parts) -> None:
    for index, qubit in parts.measured:
        if any(qubit in gate.qubits for gate in parts.gates[index:] if gate.name not in IGNORED):
            raise ValueError(
                f"Qubit {qubit} is measured before its last gate; only measurements at the end can be left out. Leave "
                "the measurement out: put a fresh qubit and cx(qubit, fresh) in its place, and read the fresh qubit's "
                "outcome bit; to make the qubit 0 again, circuit.reset(qubit)"
            )
