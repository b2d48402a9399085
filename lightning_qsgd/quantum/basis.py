# pyright: reportInvalidTypeForm=false, reportAttributeAccessIssue=false
# (Qiskit's Parameter and ParameterExpression come from a compiled module without types.)
"""Decomposes any gate into gates of a small basis. Gates are identified by what they do, never by their names.

The basis is h, x, y, z, s, sdg, t, tdg, sx, sxdg, rx, ry, rz, cx, cz, swap, and also reset, and barrier, delay and id,
which simulators ignore. Gates of the basis are recognised by their Qiskit class; all others are decomposed by their
definition, their base gate (controlled gates, modifiers) or their matrix.

The angle of each of the user's gates stays one number, a *source*. The basis gates that it becomes have angles
``constant + slope * source``, and the source keeps the eigenvalues of the gate's generator, which determine its
frequencies and its shift rule. So cp(x) has frequency 1 and needs 2 shifted circuits, although it becomes three rz.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from qiskit import QiskitError, QuantumCircuit
from qiskit.circuit import (
    AnnotatedOperation,
    Barrier,
    Clbit,
    ControlFlowOp,
    ControlledGate,
    ControlModifier,
    Delay,
    Instruction,
    InverseModifier,
    Measure,
    Parameter,
    ParameterExpression,
    PowerModifier,
    Qubit,
    Reset,
    Store,
)
from qiskit.circuit import Gate as QiskitGate
from qiskit.circuit import library as gates
from qiskit.circuit.classical.expr import Expr
from qiskit.circuit.library import UnitaryGate

_FIXED = {
    gates.HGate: "h",
    gates.XGate: "x",
    gates.YGate: "y",
    gates.ZGate: "z",
    gates.SGate: "s",
    gates.SdgGate: "sdg",
    gates.TGate: "t",
    gates.TdgGate: "tdg",
    gates.SXGate: "sx",
    gates.SXdgGate: "sxdg",
    gates.CXGate: "cx",
    gates.CZGate: "cz",
    gates.SwapGate: "swap",
}
_ROTATIONS = {gates.RXGate: "rx", gates.RYGate: "ry", gates.RZGate: "rz"}
_PAIRS = (gates.RXXGate, gates.RYYGate, gates.RZZGate, gates.RZXGate)  # one angle, generator +-1/2
_CLASSES = {name: kind for kind, name in (_FIXED | _ROTATIONS).items()}
_INVERSES = {"s": "sdg", "sdg": "s", "t": "tdg", "tdg": "t", "sx": "sxdg", "sxdg": "sx"}
_HALF, _PROJECTOR = (-0.5, 0.5), (0.0, 1.0)  # eigenvalues of the generators of a Pauli rotation and of a phase
MAX_DEPTH = 64  # nesting depth of definitions
_WITHOUT_CONDITION = (
    "put a controlled gate on the qubit in place of the measured bit's condition (cx for an x under if_test), and "
    "leave the measurement out"
)
_WITHOUT_CONTROL_FLOW = {
    "for_loop": "unroll the loop: UnrollForLoops()(circuit), of qiskit.transpiler.passes",
    "box": "leave the box out, and put its gates into the circuit",
}


class Angle(NamedTuple):
    """``constant + slope * source``, radians; ``source`` is an index, -1 for none."""

    constant: float
    source: int = -1
    slope: float = 0.0

    def scaled(self, factor: float) -> Angle:
        """The angle multiplied by a number."""
        return Angle(factor * self.constant, self.source, factor * self.slope)

    def of(self, source: Angle) -> Angle:
        """Replace the source by another angle."""
        constant, slope = self.constant + self.slope * source.constant, self.slope * source.slope
        return Angle(constant, source.source if slope else -1, slope)


class Gate(NamedTuple):
    """A gate of the basis. Only barriers and delays have ``operation``, Qiskit's object."""

    name: str
    qubits: tuple[int, ...]
    angle: Angle | None = None
    operation: Any = None


class Source(NamedTuple):
    """The angle of one gate: an expression of the parameters, and the distinct eigenvalues of the gate's generator."""

    expression: ParameterExpression
    spectrum: tuple[float, ...]

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Frequencies of the probabilities in this angle, ascending: differences of eigenvalues. () for a phase."""
        distances = {round(abs(a - b), 9) for a, b in product(self.spectrum, repeat=2)}
        return tuple(sorted(distances - {0.0}))


class Parts:
    """The gates that circuits and operations are decomposed into.

    Args:
        sources: list that new sources are appended to. Default: a new list.
        bound: the index in ``sources`` of parameters that stand for a source.

    Attributes:
        gates: gates of the basis, in order.
        sources: the angles that they depend on.
        phases: angles whose sum is the global phase.
        measured: (index in ``gates``, qubit) of each measurement.
    """

    def __init__(self, sources: list[Source] | None = None, bound: Mapping[Parameter, int] | None = None) -> None:
        self.gates: list[Gate] = []
        self.phases: list[Angle] = []
        self.measured: list[tuple[int, int]] = []
        self.sources: list[Source] = [] if sources is None else sources
        self._bound = bound or {}
        self._depth = 0
        self._from_zero = True  # whether all qubits are 0 before the first gate

    def circuit(self, circuit: QuantumCircuit, qubits: Sequence[int]) -> None:
        """Append a circuit on these qubits.

        Raises:
            ValueError: if an operation cannot be decomposed; the message says what to do instead.
        """
        if self._depth >= MAX_DEPTH:
            raise ValueError(f"Gate {circuit.name!r} is defined by itself, {MAX_DEPTH} definitions deep")
        self._depth += 1
        if circuit.global_phase:
            self.phases.append(self._angle(circuit.global_phase, ()))
        places: dict[Qubit | Clbit, int] = dict(zip(circuit.qubits, qubits, strict=True))
        for instruction in circuit.data:
            self.add(instruction.operation, [places[qubit] for qubit in instruction.qubits])
        self._depth -= 1

    def add(self, operation: Any, qubits: Sequence[int]) -> None:
        """Append an operation. Raises ValueError like :meth:`circuit`."""
        kind = getattr(operation, "base_class", type(operation))
        qubits = tuple(qubits)
        if isinstance(operation, ControlledGate) and operation.ctrl_state != 2**operation.num_ctrl_qubits - 1:
            self._open_controlled(operation, qubits)
        elif kind in _FIXED:
            self.gates.append(Gate(_FIXED[kind], qubits))
        elif kind in _ROTATIONS:
            self.gates.append(Gate(_ROTATIONS[kind], qubits, self._angle(operation.params[0])))
        elif kind in _PAIRS:
            self._paste(_pair(kind), qubits, self._angle(operation.params[0]))
        elif kind in (gates.PhaseGate, gates.U1Gate):
            self._phase(self._angle(operation.params[0], _PROJECTOR), qubits[0])
        elif kind in (gates.UGate, gates.U2Gate, gates.U3Gate):
            *theta, phi, lam = operation.params
            self._phase(self._angle(lam, _PROJECTOR), qubits[0])
            self.gates.append(Gate("ry", qubits, self._angle(theta[0] if theta else np.pi / 2)))
            self._phase(self._angle(phi, _PROJECTOR), qubits[0])
        elif kind is gates.RGate:
            theta, phi = operation.params
            for name, angle in (("rz", -phi), ("rx", theta), ("rz", phi)):
                self.gates.append(Gate(name, qubits, self._angle(angle)))
        elif kind in (gates.CUGate, gates.CU3Gate):
            if kind is gates.CUGate:
                self._phase(self._angle(operation.params[3], _PROJECTOR), qubits[0])
            self._controlled(1, gates.UGate(*operation.params[:3]), qubits)
        elif kind is gates.GlobalPhaseGate:
            self.phases.append(self._angle(operation.params[0], ()))
        elif isinstance(operation, ControlledGate) and _is_its_base_controlled(operation):
            self._controlled(operation.num_ctrl_qubits, operation.base_gate, qubits)
        elif isinstance(operation, AnnotatedOperation):
            self._annotated(operation, qubits)
        elif kind is gates.IGate:
            self.gates.append(Gate("id", qubits))
        elif isinstance(operation, Barrier):
            self.gates.append(Gate("barrier", qubits, operation=operation))
        elif isinstance(operation, Delay):
            if getattr(operation.duration, "parameters", ()) or isinstance(operation.duration, Expr):
                raise ValueError(
                    f"The duration {operation.duration} of a delay is a parameter or an expression; only angles can be "
                    "parameters: set it with circuit.assign_parameters first, or give a number"
                )
            self.gates.append(Gate("delay", qubits, operation=operation))
        elif isinstance(operation, Reset):
            used = any(qubits[0] in gate.qubits for gate in self.gates if gate.name not in IGNORED)
            if used or not self._from_zero:
                self.gates.append(Gate("reset", qubits))
        elif isinstance(operation, Measure):
            self.measured.append((len(self.gates), qubits[0]))
        elif isinstance(operation, (ControlFlowOp, Store)):
            raise ValueError(
                f"The circuit has classical control flow ({operation.name}), which is not supported; "
                f"{_WITHOUT_CONTROL_FLOW.get(operation.name, _WITHOUT_CONDITION)}"
            )
        else:
            self._defined(operation, qubits)

    def _defined(self, operation: Any, qubits: tuple[int, ...]) -> None:
        """Decompose an operation by its definition, or else by its matrix."""
        if not isinstance(operation, Instruction) and hasattr(operation, "to_instruction"):  # such as a Clifford
            operation = operation.to_instruction()
        try:
            definition = getattr(operation, "definition", None)
        except TypeError:  # a HamiltonianGate, while its time is a parameter
            definition = None
        if definition is not None:
            return self.circuit(definition, qubits)
        parameters = {p.name for value in getattr(operation, "params", ()) for p in getattr(value, "parameters", ())}
        if parameters or not hasattr(operation, "__array__"):
            raise ValueError(
                f"Gate {operation.name!r} has no definition in other gates, so its effect"
                f"{f' with {sorted(parameters)}' if parameters else ''} is unknown; set its .definition to a "
                "QuantumCircuit, or write an evolution as a PauliEvolutionGate"
            )
        synthesis: Any = UnitaryGate(operation.to_matrix())
        return self.circuit(synthesis.definition, qubits)

    def _angle(self, value: Any, spectrum: tuple[float, ...] = _HALF) -> Angle:
        """The angle of a gate whose generator has these eigenvalues."""
        if isinstance(value, Angle):
            return value
        if not getattr(value, "parameters", ()):
            return Angle(_real(value))
        bound = {self._bound.get(parameter, -1) for parameter in value.parameters}
        if bound == {0}:  # in a template, linear in its angle
            slope = value.gradient(next(iter(value.parameters)))
            constant = value.bind(dict.fromkeys(value.parameters, 0.0))
            return Angle(_real(constant), 0, _real(slope))
        self.sources.append(Source(value, spectrum))
        return Angle(0.0, len(self.sources) - 1, 1.0)

    def _phase(self, angle: Angle, qubit: int) -> None:
        self.gates.append(Gate("rz", (qubit,), angle))
        self.phases.append(angle.scaled(0.5))

    def _paste(self, parts: Parts, qubits: Sequence[int], angle: Angle | None = None) -> None:
        """Append other parts on these qubits. In a template, ``angle`` replaces source 0."""

        def put(inner: Angle) -> Angle:
            return inner if angle is None else inner.of(angle)

        for gate in parts.gates:
            places = tuple(qubits[q] for q in gate.qubits)
            self.gates.append(gate._replace(qubits=places, angle=gate.angle and put(gate.angle)))
        self.phases += map(put, parts.phases)

    def _part(self, operation: Any, num_qubits: int) -> Parts:
        """The parts of one operation on qubits 0, 1, ..., which share the sources."""
        part = Parts(self.sources, self._bound)
        part._depth, part._from_zero = self._depth, False
        part.add(operation, range(num_qubits))
        return part

    def _controlled(self, controls: int, operation: Any, qubits: tuple[int, ...]) -> None:
        """Append an operation on the last qubits with each of its basis gates controlled by the first qubits."""
        before = len(self.sources)
        part = self._part(operation, len(qubits) - controls)
        if not part.is_unitary:
            raise ValueError(
                f"Gate {operation.name!r} measures or resets qubits, so that it cannot be controlled; "
                "control only its other gates"
            )
        for index in range(before, len(self.sources)):
            expression, spectrum = self.sources[index]
            self.sources[index] = Source(expression, tuple(sorted({*spectrum, 0.0})) if spectrum else _PROJECTOR)
        for gate in part.gates:
            if gate.name in IGNORED:
                continue
            places = [*range(controls), *(controls + q for q in gate.qubits)]
            self._paste(_controlled_gate(gate.name, controls), [qubits[q] for q in places], gate.angle)
        for phase in part.phases:
            if controls == 1:
                self._phase(phase, qubits[0])
            else:
                self._paste(_controlled_phase(controls - 1), qubits[:controls], phase)

    def _open_controlled(self, operation: Any, qubits: tuple[int, ...]) -> None:
        closed = operation.to_mutable()
        closed.ctrl_state = None
        flips = self._flips(operation, qubits)
        self.gates += flips
        self.add(closed, qubits)
        self.gates += flips

    @staticmethod
    def _flips(control: Any, qubits: tuple[int, ...]) -> list[Gate]:
        """An x on each control whose active state is 0."""
        return [Gate("x", (qubits[k],)) for k in range(control.num_ctrl_qubits) if not control.ctrl_state >> k & 1]

    def _annotated(self, operation: AnnotatedOperation, qubits: tuple[int, ...]) -> None:
        """Append the base operation with its modifiers, of which the first acts first."""
        *inner, last = operation.modifiers
        base = AnnotatedOperation(operation.base_op, inner) if inner else operation.base_op
        if isinstance(last, ControlModifier):
            flips = self._flips(last, qubits)
            self.gates += flips
            self._controlled(last.num_ctrl_qubits, base, qubits)
            self.gates += flips
        elif isinstance(last, InverseModifier):
            self._paste(self._part(base, len(qubits)).inverse(), qubits)
        elif isinstance(last, PowerModifier) and float(last.power).is_integer():
            for _ in range(abs(round(last.power))):
                self.add(base if last.power > 0 else AnnotatedOperation(base, InverseModifier()), qubits)
        elif (power := _power(base, last)) is not None:
            self.add(power, qubits)
        else:
            raise ValueError(
                f"Gate {operation.base_op.name!r} with modifiers {operation.modifiers} cannot be decomposed; use the "
                "gate's own methods control, inverse and power, with numbers for its angles"
            )

    @property
    def is_unitary(self) -> bool:
        """Whether nothing is measured or reset."""
        return not self.measured and all(gate.name != "reset" for gate in self.gates)

    def inverse(self) -> Parts:
        """The inverse of the parts, with the same sources."""
        out = Parts(self.sources, self._bound)
        if not self.is_unitary:
            raise ValueError("A measurement or reset has no inverse; invert only the gates before it")
        for gate in reversed(self.gates):
            name = _INVERSES.get(gate.name, gate.name)
            out.gates.append(gate._replace(name=name, angle=gate.angle and gate.angle.scaled(-1)))
        out.phases = [phase.scaled(-1) for phase in self.phases]
        return out


IGNORED = ("barrier", "delay", "id")


def _power(base: Any, modifier: Any) -> Any:
    """A fractional power of a gate, or None if Qiskit has none."""
    if not isinstance(base, QiskitGate):
        return None
    try:
        return base.power(modifier.power)
    except (TypeError, QiskitError):
        return None


def _real(value: Any) -> float:
    number = value.numeric() if isinstance(value, ParameterExpression) else value
    if isinstance(number, complex):
        if abs(number.imag) > 1e-12:
            raise ValueError(f"Angle {value} is complex ({number}); only real ones are supported")
        number = number.real
    return float(number)


def _is_its_base_controlled(operation: Any) -> bool:
    """Whether to decompose a gate as its base gate with controls, not by its definition.

    This keeps the angle of a standard gate one number, and avoids that Qiskit defines controlled blocks by their names.
    It holds for the results of Qiskit's ``control``, not for the user's classes and definitions.
    """
    base, controls = operation.base_gate, operation.num_ctrl_qubits
    prefix = "c" * controls if controls < 3 else f"c{controls}"
    made_by_control = type(operation) is ControlledGate and operation.name == prefix + base.name
    if not (made_by_control or _is_standard(operation)) or (_is_standard(base) and not base.params):
        return False
    return operation.num_qubits == controls + base.num_qubits and len(operation.params) == len(base.params)


def _is_standard(operation: Any) -> bool:
    kind = getattr(operation, "base_class", type(operation))
    return kind.__module__.startswith("qiskit.circuit.library.standard_gates.")


def _template(operation: Any, angle: Iterable[Parameter] = ()) -> Parts:
    parts = Parts(bound=dict.fromkeys(angle, 0))
    parts.circuit(operation.definition, range(operation.num_qubits))
    return parts


@cache
def _pair(kind: type) -> Parts:
    angle = Parameter("angle")
    return _template(kind(angle), [angle])


@cache
def _controlled_phase(controls: int) -> Parts:
    angle = Parameter("angle")
    return _template(gates.MCPhaseGate(angle, controls) if controls > 1 else gates.CPhaseGate(angle), [angle])


@cache
def _controlled_gate(name: str, controls: int) -> Parts:
    """A gate of the basis with controls, by Qiskit's definition."""
    if (name, controls) in (("x", 1), ("z", 1)):
        parts = Parts()
        parts.gates.append(Gate("c" + name, (0, 1)))
        return parts
    if name in _ROTATIONS.values():
        angle = Parameter("angle")
        return _template(_CLASSES[name](angle).control(controls), [angle])
    return _template(_CLASSES[name]().control(controls))
