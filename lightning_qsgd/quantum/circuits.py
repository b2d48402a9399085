# pyright: reportInvalidTypeForm=false, reportAttributeAccessIssue=false
# (Qiskit's Parameter and ParameterExpression come from a compiled module without types.)
"""Ansatz: a parametrised circuit with named inputs and weights, and the circuit of the paper.

Paper: arXiv 2511.01918, Eq. 5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import Operation, Parameter, ParameterExpression, ParameterVector

Entanglement = Literal["linear", "none"]
#: Gates with one angle, whose generator has two eigenvalues at distance 1: probabilities have frequency 1 in the angle.
ROTATIONS = ("rx", "ry", "rz", "p", "rxx", "ryy", "rzz", "rzx", "cp")


@dataclass(frozen=True)
class Ansatz:
    """A circuit whose parameters are split into inputs (data, angles) and weights.

    Args:
        circuit: a circuit on ``n`` qubits without measurements or classical bits: networks measure every qubit
            themselves, into bit ``k`` of the outcome for qubit ``k`` (little-endian, as everywhere in Qiskit).
        inputs: the parameters that take data, in the order of the last axis of ``inputs`` arrays. At least one.
        weights: the remaining parameters, in the order of ``weights`` arrays. Default: none.

    Together ``inputs`` and ``weights`` must name each parameter of the circuit exactly once. They are explicit
    because ``circuit.parameters`` sorts scalar parameters by name (x0, x1, x10, x2).

    Raises:
        ValueError: if the circuit is measured, or a parameter is missing, unknown or named twice.
    """

    circuit: QuantumCircuit
    inputs: tuple[Parameter, ...]
    weights: tuple[Parameter, ...] = ()

    def __init__(self, circuit: QuantumCircuit, inputs: Sequence[Parameter], weights: Sequence[Parameter] = ()) -> None:
        if circuit.num_clbits:
            raise ValueError(
                f"The circuit has {circuit.num_clbits} classical bits; pass it without measurements: "
                "the network adds its own (circuit.remove_final_measurements(inplace=False))"
            )
        named = [*inputs, *weights]
        if not inputs:
            raise ValueError("An ansatz needs at least one input parameter; got none")
        if len(set(named)) != len(named):
            raise ValueError(f"A parameter is named twice among inputs and weights: {[p.name for p in named]}")
        unknown = [p.name for p in named if p not in circuit.parameters]
        missing = [p.name for p in circuit.parameters if p not in named]
        if unknown or missing:
            raise ValueError(
                f"Inputs and weights must name each circuit parameter once; not in the circuit: {unknown}, "
                f"neither input nor weight: {missing}"
            )
        object.__setattr__(self, "circuit", circuit)
        object.__setattr__(self, "inputs", tuple(inputs))
        object.__setattr__(self, "weights", tuple(weights))

    @property
    def num_qubits(self) -> int:
        """Number of qubits ``n``; a network of this ansatz has ``2**n`` outcomes."""
        return self.circuit.num_qubits

    @property
    def num_inputs(self) -> int:
        """Length of the last axis of inputs."""
        return len(self.inputs)

    @property
    def num_weights(self) -> int:
        """Length of the last axis of weights; may be 0."""
        return len(self.weights)


def superposition_circuit(num_qubits: int = 4, depth: int = 2, entanglement: Entanglement = "linear") -> Ansatz:
    """The paper's circuit (Eq. 5): per layer H, Ry(x + theta), Rz(phi) on every qubit, then CNOTs 0->1->2->...

    Args:
        num_qubits: number of qubits ``n`` and of inputs, at least 1. Default: 4.
        depth: number of layers, at least 1. Default: 2.
        entanglement: "linear" (CNOT between neighbours) or "none". Default: "linear".

    Returns:
        An :class:`Ansatz` with ``n`` inputs, the same in each layer, and ``(2 * depth - 1) * n`` weights: first
        ``theta`` (depth x n, row by row), then ``phi`` ((depth - 1) x n). The last layer's Rz is left out: it
        multiplies outcome amplitudes by phases and changes no probability.

    Raises:
        ValueError: for num_qubits or depth below 1, or an unknown entanglement.
    """
    return _layers("superposition", num_qubits, depth, entanglement, _superpose)


def layered_circuit(
    num_qubits: int = 4,
    depth: int = 2,
    encoding: Literal["angle", "reuploading"] = "reuploading",
    entanglement: Entanglement = "linear",
) -> Ansatz:
    """A circuit for layers in models: inputs in Rx, weights in Ry and Rz, then CNOTs 0->1->2->..., ``depth`` times.

    Args:
        num_qubits: number of qubits ``n`` and of inputs, at least 1. Default: 4.
        depth: layers, at least 1. Default: 2.
        encoding: "angle" (inputs in the first layer only: degree 1) or "reuploading" (in each layer: degree ``depth``;
            Perez-Salinas et al. 2020, arXiv 1907.02085). Default: "reuploading".
        entanglement: "linear" or "none". Default: "linear".

    Returns:
        An :class:`Ansatz` with ``n`` inputs and ``(2 * depth - 1) * n`` weights: Ry's angles (depth x n, row by row),
        then Rz's ((depth - 1) x n; the last layer's would be unobservable).

    Raises:
        ValueError: for num_qubits or depth below 1, or an unknown encoding or entanglement.
    """
    if encoding not in ("angle", "reuploading"):
        raise ValueError(f"Invalid encoding: {encoding!r}; it must be 'angle' or 'reuploading'")

    def gates(circuit: QuantumCircuit, layer: int, qubit: int, x: Parameter, theta: Parameter) -> None:
        if layer == 0 or encoding == "reuploading":
            circuit.rx(x, qubit)
        circuit.ry(theta, qubit)

    return _layers("layered", num_qubits, depth, entanglement, gates)


def score_circuit(
    num_qubits: int = 4, depth: int = 2, entanglement: Entanglement = "linear", final_phases: bool = False
) -> Ansatz:
    """The paper's circuit with one number, an attention score, in every Ry (Eq. 4 and 5).

    How the score enters is not said there; angle encoding in every Ry is this package's choice. Outcome probabilities
    are trigonometric polynomials of degree ``depth * num_qubits`` in it.

    Args:
        num_qubits, depth, entanglement: as in :func:`superposition_circuit`.
        final_phases: keep the last layer's Rz, which changes amplitudes, but no probability. Default: False.

    Returns:
        An :class:`Ansatz` with one input and the weights of :func:`superposition_circuit`; with ``final_phases`` phi
        has ``depth * num_qubits`` of them.

    Raises:
        ValueError: as :func:`superposition_circuit`.
    """
    return _layers("score", num_qubits, depth, entanglement, _superpose, shared_input=True, final_phases=final_phases)


def _superpose(circuit: QuantumCircuit, layer: int, qubit: int, x: Parameter, theta: Parameter) -> None:
    circuit.h(qubit)
    circuit.ry(x + theta, qubit)


def _layers(
    name: str,
    num_qubits: int,
    depth: int,
    entanglement: Entanglement,
    gates: Callable[..., None],
    *,
    shared_input: bool = False,
    final_phases: bool = False,
) -> Ansatz:
    """Per layer ``gates(circuit, layer, qubit, x, theta)``, Rz(phi) on each qubit (final_phases: also in the last)
    and CNOTs."""
    if num_qubits < 1:
        raise ValueError(f"Invalid num_qubits: {num_qubits}; it must be at least 1")
    if depth < 1:
        raise ValueError(f"Invalid depth: {depth}; it must be at least 1")
    if entanglement not in ("linear", "none"):
        raise ValueError(f"Invalid entanglement: {entanglement!r}; it must be 'linear' or 'none'")
    x = [Parameter("x")] * num_qubits if shared_input else list(ParameterVector("x", num_qubits))
    theta = ParameterVector("theta", depth * num_qubits)
    phase_layers = depth if final_phases else depth - 1
    phi = ParameterVector("phi", phase_layers * num_qubits)
    circuit = QuantumCircuit(num_qubits, name=name)
    for layer in range(depth):
        for qubit in range(num_qubits):
            gates(circuit, layer, qubit, x[qubit], theta[layer * num_qubits + qubit])
            if layer < phase_layers:
                circuit.rz(phi[layer * num_qubits + qubit], qubit)
        if entanglement == "linear":
            for qubit in range(num_qubits - 1):
                circuit.cx(qubit, qubit + 1)
    return Ansatz(circuit, x[:1] if shared_input else x, [*theta, *phi])


def linear_angle(angle: ParameterExpression | float) -> tuple[float, dict[Parameter, float]]:
    """Split a gate angle into ``constant + sum(coefficient * parameter)``.

    Raises:
        ValueError: if the angle is not linear in its parameters.
    """
    if not isinstance(angle, ParameterExpression):
        return float(angle), {}
    coefficients = {}
    for parameter in angle.parameters:
        slope = angle.gradient(parameter)
        if isinstance(slope, ParameterExpression):
            if slope.parameters:
                raise ValueError(f"Angle {angle} is not linear in {parameter.name}; only linear angles are supported")
            slope = slope.numeric()
        if isinstance(slope, complex):
            raise ValueError(f"Angle {angle} has the complex coefficient {slope}; only real ones are supported")
        coefficients[parameter] = float(slope)
    constant = angle.bind(dict.fromkeys(angle.parameters, 0.0)).numeric()
    return float(constant.real), coefficients


def linear_form(ansatz: Ansatz, angle: ParameterExpression | float) -> NDArray[np.float64]:
    """An angle as (constant, coefficient of each input, of each weight), (1 + num_inputs + num_weights,).

    Raises:
        ValueError: if the angle is not linear in its parameters.
    """
    constant, coefficients = linear_angle(angle)
    return np.array([constant, *(coefficients.get(parameter, 0.0) for parameter in (*ansatz.inputs, *ansatz.weights))])


def has_parameters(operation: Operation) -> bool:
    """Whether any angle of a gate holds a parameter."""
    return any(getattr(angle, "parameters", ()) for angle in operation.params)


def separate_gates(ansatz: Ansatz) -> tuple[Ansatz, NDArray[np.float64], NDArray[np.float64]]:
    """The same circuit with one input of its own for each gate that has parameters, as parameter shifts need it.

    Returns:
        The new ansatz (G inputs, no weights); offsets (G,) and slopes (G, num_inputs + num_weights), so that its inputs
        are ``offsets + slopes @ (inputs, weights)``.

    Raises:
        ValueError: for a parametrised gate that is no Pauli rotation, or an angle that is not linear.
    """
    circuit = ansatz.circuit.copy_empty_like()
    circuit.global_phase = 0
    angles, forms = [], []
    for instruction in ansatz.circuit.data:
        operation = instruction.operation
        if has_parameters(operation):
            if operation.name not in ROTATIONS:
                raise ValueError(
                    f"A parameter enters gate {operation.name!r}, which has no two-term shift rule; use "
                    f"{', '.join(ROTATIONS)} (circuit.decompose() or qiskit.transpile make them)"
                )
            forms.append(linear_form(ansatz, operation.params[0]))
            angles.append(Parameter(f"angle{len(angles):04}"))
            operation = type(operation)(angles[-1])
        circuit.append(operation, instruction.qubits)
    rows = np.stack(forms)
    return Ansatz(circuit, angles), rows[:, 0], rows[:, 1:]
