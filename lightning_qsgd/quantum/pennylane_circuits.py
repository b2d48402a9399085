# pyright: reportInvalidTypeForm=false, reportAttributeAccessIssue=false
# (Qiskit's Parameter and ParameterExpression come from a compiled module without types.)
"""Circuits of PennyLane, gate by gate; each gate's matrix is compared with PennyLane's, and that of the whole circuit.

Texts in between lose things: PennyLane's OpenQASM has numbers instead of parameters, and registers in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterVector
from qiskit.circuit import library as gates
from qiskit.circuit.library import UnitaryGate
from qiskit.quantum_info import Operator
from torch import Tensor

from lightning_qsgd.quantum.circuits import Ansatz

#: PennyLane's operations whose wires and parameters are those of Qiskit's gate.
GATES = {
    "Identity": gates.IGate, "Hadamard": gates.HGate, "PauliX": gates.XGate, "PauliY": gates.YGate,
    "PauliZ": gates.ZGate, "S": gates.SGate, "T": gates.TGate, "SX": gates.SXGate, "CNOT": gates.CXGate,
    "CY": gates.CYGate, "CZ": gates.CZGate, "CH": gates.CHGate, "SWAP": gates.SwapGate, "ISWAP": gates.iSwapGate,
    "ECR": gates.ECRGate, "Toffoli": gates.CCXGate, "CCZ": gates.CCZGate, "CSWAP": gates.CSwapGate,
    "RX": gates.RXGate, "RY": gates.RYGate, "RZ": gates.RZGate, "PhaseShift": gates.PhaseGate, "U1": gates.PhaseGate,
    "U3": gates.UGate, "CRX": gates.CRXGate, "CRY": gates.CRYGate, "CRZ": gates.CRZGate,
    "ControlledPhaseShift": gates.CPhaseGate, "CPhase": gates.CPhaseGate, "IsingXX": gates.RXXGate,
    "IsingYY": gates.RYYGate, "IsingZZ": gates.RZZGate,
}  # fmt: skip
MAX_CHECKED = 10  # qubits of circuits whose whole matrix is compared
TOLERANCE = 1e-9


class PennyLaneCircuit(NamedTuple):
    """A circuit of PennyLane.

    Attributes:
        ansatz: the circuit. Qubit k is the k-th wire, in the order of the device, or of first use.
        observables: of the expectations that it returns, for :class:`QuantumLayer`; None if it returns something else.
    """

    ansatz: Ansatz
    observables: list[dict[str, float]] | None


def from_pennylane(
    circuit: Any, inputs: int | Sequence[int] = (), weight_shapes: Mapping[str, int | Sequence[int]] | None = None
) -> PennyLaneCircuit:
    """Read a circuit of PennyLane.

    Outcomes have Qiskit's order: bit k of an outcome is the k-th wire, whereas PennyLane's first wire is the highest.

    Args:
        circuit: a ``QNode`` or a quantum function, with an argument ``inputs`` that takes one row of data, as for
            PennyLane's ``TorchLayer``; or a tape (``QuantumScript``).
        inputs: the number of data in a row, 0 if there is no such argument. For a tape: which of its parameters,
            counted from 0 in the tape's order, take data.
        weight_shapes: the shape of each other argument. Their elements, argument by argument, row by row, are the
            ansatz's weights. Default: none. For a tape: its trainable parameters that take no data.

    Returns:
        The ansatz, and the observables that the circuit returns.

    Raises:
        ModuleNotFoundError: without PennyLane (the extra ``pennylane``).
        ValueError: if it measures before its end, has noise, or an operation without gates; if an angle is not linear
            in the arguments, or gates depend on their values; or if its matrix is not PennyLane's.

    Example:
        >>> import pennylane as qml
        >>> def model(inputs, weights):
        ...     qml.AngleEmbedding(inputs, wires=range(2))
        ...     qml.StronglyEntanglingLayers(weights, wires=range(2))
        ...     return qml.expval(qml.Z(0))
        >>> ansatz, observables = from_pennylane(model, 2, {"weights": (1, 2, 3)})
        >>> ansatz.num_weights, observables
        (6, [{'Z0': 1.0}])
    """
    try:
        import pennylane as qml
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("from_pennylane needs PennyLane: pip install 'lightning-qsgd[pennylane]'") from error
    is_tape = isinstance(circuit, qml.tape.QuantumScript)
    source = _Tape(circuit, inputs) if is_tape else _Function(circuit, inputs, weight_shapes or {})
    first, second = (source.at(source.point(seed)) for seed in (0, 1))
    wires = list(source.wires or first.tape.wires)
    parameters = ParameterVector("x", source.num_inputs), ParameterVector("w", source.num_weights)
    named = [*parameters[0], *parameters[1]]
    made = QuantumCircuit(max(len(wires), 1))
    for operation, other in zip_longest(_leaves(first.tape), _leaves(second.tape)):
        if operation is None or other is None or (other.name, other.wires) != (operation.name, operation.wires):
            raise ValueError("Invalid circuit: its gates depend on the values of its arguments; give one for each case")
        angles = [
            _linear(name_of(operation), a, b, first, second, named)
            for a, b in zip(operation.data, other.data, strict=True)
        ]
        _append(made, operation, angles, [wires.index(wire) for wire in operation.wires])
    _check_whole(made, named, first, wires)
    for parameter in set(named).difference(made.parameters):
        made.global_phase += parameter  # an ansatz names the circuit's parameters
    return PennyLaneCircuit(Ansatz(made, list(parameters[0]), list(parameters[1])), _observables(first.tape, wires))


class _Point(NamedTuple):
    """A circuit at values of its arguments.

    Attributes:
        values: all arguments, each flat, float64, with gradients.
        tape: PennyLane's.
    """

    values: list[Tensor]
    tape: Any


class _Function:
    """A QNode or a quantum function."""

    def __init__(self, function: Any, inputs: Any, weight_shapes: Mapping[str, Any]) -> None:
        import pennylane as qml

        if not callable(function):
            raise ValueError(
                f"Invalid circuit: {function!r} ({type(function).__name__}); it must be a QNode, a quantum function or "
                "a tape of PennyLane"
            )
        if not isinstance(inputs, int) and inputs != ():
            raise ValueError(f"Invalid inputs: {inputs!r}; for a function it must be the number of data in a row")
        shapes = {name: (shape,) if isinstance(shape, int) else tuple(shape) for name, shape in weight_shapes.items()}
        self.shapes: dict[str, tuple[int, ...]] = ({"inputs": (inputs,)} if inputs else {}) | shapes
        self.num_inputs = inputs or 0
        self.num_weights = sum(int(np.prod(shape)) for shape in shapes.values())
        self.build = (
            qml.workflow.construct_tape(function, level="top")
            if isinstance(function, qml.QNode)
            else qml.tape.make_qscript(function)
        )
        self.wires = function.device.wires if isinstance(function, qml.QNode) else None

    def point(self, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        return [(3 * torch.rand(n, generator=generator, dtype=torch.float64) + 0.1).requires_grad_() for n in sizes]

    def at(self, values: list[Tensor]) -> _Point:
        arguments = {name: v.view(shape) for (name, shape), v in zip(self.shapes.items(), values, strict=True)}
        return _Point(values, self.build(**arguments))


class _Tape:
    """A tape, whose parameters get new values."""

    def __init__(self, tape: Any, inputs: Any) -> None:
        self.tape, self.wires = tape, None
        places = [] if inputs == () else [inputs] if isinstance(inputs, int) else list(inputs)
        count = len(tape.get_parameters(trainable_only=False))
        if any(not 0 <= place < count for place in places):
            raise ValueError(f"Invalid inputs: {places}; the tape has {count} parameters, counted from 0")
        trained = [place for place in tape.trainable_params if place not in places]
        self.places = [*places, *trained]
        self.num_inputs, self.num_weights = len(places), len(trained)

    def point(self, seed: int) -> list[Tensor]:
        return [
            (
                3 * torch.rand(1, generator=torch.Generator().manual_seed(97 * seed + k), dtype=torch.float64) + 0.1
            ).requires_grad_()
            for k in range(len(self.places))
        ]

    def at(self, values: list[Tensor]) -> _Point:
        ordered = sorted(
            zip(self.places, values, strict=True), key=itemgetter(0)
        )  # others are bound wrongly: PennyLane 0.45.1
        return _Point(values, self.tape.bind_new_parameters([v[0] for _, v in ordered], sorted(self.places)))


def name_of(operation: Any) -> str:
    """An operation as errors name it."""
    return f"{operation.name} on wires {operation.wires.tolist()}"


def _leaves(tape: Any) -> Iterator[Any]:
    """The operations that are gates of Qiskit, or matrices, in order."""
    waiting = list(tape.operations)[::-1]
    while waiting:
        operation = waiting.pop()
        if operation.batch_size is not None:
            raise ValueError(f"Invalid circuit: {name_of(operation)} has a batch; give the circuit of one row")
        if operation.name in GATES or operation.name in ("GlobalPhase", "Barrier"):
            yield operation
        elif operation.has_decomposition:
            waiting += operation.decomposition()[::-1]
        elif operation.has_matrix and not any(getattr(a, "requires_grad", False) for a in operation.data):
            yield operation
        else:
            raise ValueError(
                f"Invalid circuit: {name_of(operation)} has no gates; measurements before the end, noise and angles of "
                "matrices cannot be read. Leave it out, or write it as gates"
            )


def _linear(name: str, one: Any, two: Any, first: _Point, second: _Point, named: list[Parameter]) -> Any:
    """An angle as an expression of the parameters, from its values and slopes at two points."""
    if getattr(one, "ndim", 0):  # a matrix
        return one
    constants, slopes = [], []
    for angle, point in ((one, first), (two, second)):
        angle = torch.as_tensor(angle, dtype=torch.float64)
        slope = [torch.zeros_like(v) for v in point.values]
        if angle.requires_grad:
            found = torch.autograd.grad(angle, point.values, retain_graph=True, allow_unused=True)
            slope = [zero if each is None else each for each, zero in zip(found, slope, strict=True)]
        slopes.append(_flat(slope))
        constants.append(float(angle.detach() - slopes[-1] @ _flat(point.values)))
    if abs(constants[0] - constants[1]) > TOLERANCE or not torch.allclose(*slopes, rtol=0, atol=TOLERANCE):
        raise ValueError(
            f"Invalid circuit: an angle of {name} is not linear in the arguments; let the circuit take the angle, and "
            "compute it before: Ansatz(circuit, inputs, weights, encode=function, num_inputs=D)"
        )
    expression: Any = round(constants[0], 12)
    for slope, parameter in zip(slopes[0].tolist(), named, strict=True):
        if abs(slope) > 1e-12:
            expression = (parameter if slope == 1 else slope * parameter) + expression
    return expression


def _flat(values: list[Tensor]) -> Tensor:
    return torch.cat([*values, torch.zeros(0, dtype=torch.float64)]).detach()


def _append(circuit: QuantumCircuit, operation: Any, angles: list[Any], qubits: list[int]) -> None:
    """Append an operation, after its matrix was compared with PennyLane's."""
    if operation.name == "GlobalPhase":
        circuit.global_phase -= angles[0]
        return
    if operation.name not in GATES and not operation.has_matrix:
        return  # a barrier
    import pennylane as qml

    right = np.asarray(qml.math.detach(qml.matrix(operation, wire_order=operation.wires)), complex)
    if operation.name not in GATES:
        circuit.append(UnitaryGate(_little_endian(right)), qubits)
        return
    numbers = [float(torch.as_tensor(angle, dtype=torch.float64).detach()) for angle in operation.data]
    found = Operator(GATES[operation.name](*numbers)).data
    if np.abs(found - _little_endian(right)).max() > TOLERANCE:
        raise ValueError(f"Invalid circuit: Qiskit's matrix of {name_of(operation)} is another than PennyLane's")
    circuit.append(GATES[operation.name](*angles), qubits)


def _little_endian(matrix: Any) -> Any:
    """A matrix whose first wire is the highest bit, with the first wire as the lowest."""
    n = len(matrix).bit_length() - 1
    order = [*range(n)][::-1]
    return matrix.reshape((2,) * (2 * n)).transpose(*order, *(n + k for k in order)).reshape(2**n, 2**n)


def _check_whole(circuit: QuantumCircuit, named: list[Parameter], point: _Point, wires: list[Any]) -> None:
    if not wires or len(wires) > MAX_CHECKED:
        return
    import pennylane as qml

    values = _flat(point.values).tolist()
    bound = circuit.assign_parameters({p: v for p, v in zip(named, values, strict=True) if p in circuit.parameters})
    right = qml.math.detach(qml.matrix(qml.tape.QuantumScript(point.tape.operations), wire_order=wires))
    if np.abs(Operator(bound).data - _little_endian(np.asarray(right, complex))).max() > 1e-8:
        raise ValueError("Invalid circuit: its matrix in Qiskit is another than PennyLane's; please report it")


def _observables(tape: Any, wires: list[Any]) -> list[dict[str, float]] | None:
    import pennylane as qml

    if not tape.measurements or any(not isinstance(m, qml.measurements.ExpectationMP) for m in tape.measurements):
        return None
    observables = []
    for measurement in tape.measurements:
        sentence = measurement.obs.pauli_rep
        if sentence is None:
            raise ValueError(f"Invalid circuit: the observable {measurement.obs} is no sum of products of Paulis")
        observables.append(
            {
                "".join(f"{pauli}{wires.index(wire)}" for wire, pauli in word.items()) or "I": float(np.real(c))
                for word, c in sentence.items()
            }
        )
    return observables
