"""Fingerprints of circuits and requests that are equal in every process.

They hash a text of the circuit, because the ids of Qiskit's parameters, and so its serialisation, differ between
processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from qiskit import QuantumCircuit
from qiskit.circuit import (
    AnnotatedOperation,
    Barrier,
    ControlledGate,
    Delay,
    Gate,
    Instruction,
    Measure,
    Parameter,
    Reset,
    library,
)
from qiskit.circuit.library import get_standard_gate_name_mapping
from qiskit.primitives.containers.sampler_pub import SamplerPub

from lightning_qsgd.quantum.angles import linear_angle
from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.normal_form import outcome_qubits

_STANDARD = frozenset(get_standard_gate_name_mapping())
#: Operations outside the standard gates that their parameters and size determine.
_TOLD = {library.UnitaryGate, library.DiagonalGate, library.PermutationGate, library.PauliGate, library.QFTGate}
_TOLD |= {library.UCGate, library.UCRXGate, library.UCRYGate, library.UCRZGate, library.HamiltonianGate}
_TOLD |= {library.StatePreparation, library.Initialize, library.Isometry, Barrier, Delay, Measure, Reset}


def of_ansatz(ansatz: Ansatz, weights: ArrayLike | None = None) -> str:
    """SHA-256 of a circuit, independent of the names of its parameters, and of its fixed weights if given.

    Weights are rounded to 1e-9. Angles that are linear in the parameters enter by their coefficients, others as text.
    """
    names = {p: Parameter(f"{kind}{i}") for kind in ("inputs", "weights") for i, p in enumerate(getattr(ansatz, kind))}
    fixed = np.round(np.asarray([] if weights is None else weights, float), 9) + 0.0  # no negative zeros
    text = f"{len(ansatz.inputs)} {fixed.tolist()}\n{_text(ansatz.circuit, names)}"
    if ansatz.encoding is not None:
        text += f"\n{ansatz.encoding.name} of {ansatz.num_inputs}"
    if ansatz.circuit.layout is not None:
        text += f"\n{outcome_qubits(ansatz.circuit)}"
    return hashlib.sha256(text.encode()).hexdigest()


def of_request(pubs: Iterable[SamplerPub], where: str) -> str:
    """SHA-256 of a request: its circuits, parameter values and shots, and ``where`` it runs."""
    digest = hashlib.sha256(where.encode())
    for pub in pubs:
        values = pub.parameter_values.as_array(pub.circuit.parameters)
        digest.update(_text(pub.circuit, {}).encode())
        digest.update(f"{[p.name for p in pub.circuit.parameters]} {values.shape} {pub.shots}".encode())
        digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return digest.hexdigest()


Names = dict[Parameter, Parameter]  # the names of parameters in the text


def _text(circuit: QuantumCircuit, names: Names, phases: bool = False) -> str:
    """The text of a circuit, with global phases, which only matter under controls, if ``phases``.

    Parameters are renamed here, because Qiskit's assign_parameters changes definitions of annotated gates that copies
    of a circuit share.
    """
    lines = [f"{circuit.num_qubits} {[(register.name, register.size) for register in circuit.cregs]}"]
    if phases:
        lines.append(_parameter(circuit.global_phase, names))
    for instruction in circuit.data:
        operation: Any = instruction.operation
        bits = [circuit.find_bit(bit).index for bit in (*instruction.qubits, *instruction.clbits)]
        name = operation.name
        if type(operation) in (Instruction, Gate, ControlledGate) and operation.definition is not None:
            # a circuit that was turned into a gate; its name is numbered
            name = f"({_text(operation.definition, names, phases)})"
            base: Any = getattr(operation, "base_gate", None)
            if _borrows_a_name(base):  # Qiskit defines a controlled block by its name
                name += f" of ({_text(base.definition, names, phases=True)})"
        elif _is_more_than_its_name(operation):
            name = f"{name} ({_deed(operation, names, phases)})"
        angles = [_parameter(value, names) for value in getattr(operation, "params", ())]
        lines.append(f"{name} {len(instruction.qubits)} {bits} {angles}")
    return "\n".join(lines)


def _borrows_a_name(gate: Any) -> bool:
    """Whether a block, or a block in it, has the name of a standard gate."""
    if type(gate) not in (Instruction, Gate) or gate.definition is None:
        return False
    return gate.name in _STANDARD or any(_borrows_a_name(inner.operation) for inner in gate.definition.data)


def _is_more_than_its_name(operation: Any) -> bool:
    """Whether name and parameters do not determine an operation."""
    if isinstance(operation, AnnotatedOperation) or not isinstance(operation, Instruction):
        return True
    kind = getattr(operation, "base_class", type(operation))
    return not (kind in _TOLD or kind.__module__.startswith("qiskit.circuit.library.standard_gates."))


def _deed(operation: Any, names: Names, phases: bool) -> str:
    """The text of an operation: its modifiers and base, its definition, or its matrix."""
    if isinstance(operation, AnnotatedOperation):
        base = QuantumCircuit(operation.base_op.num_qubits)
        base.append(operation.base_op, base.qubits)
        return f"{operation.modifiers} {_text(base, names, phases=True)}"
    if not isinstance(operation, Instruction) and hasattr(operation, "to_instruction"):
        operation = operation.to_instruction()
    try:
        definition = getattr(operation, "definition", None)
    except TypeError:  # such as that of an evolution over a time that cancels
        definition = None
    if definition is not None:
        return _text(definition, names, phases)
    matrix: Any = operation
    return _parameter(matrix.to_matrix(), names) if hasattr(operation, "__array__") else ""


def _parameter(value: Any, names: Names) -> str:
    if isinstance(value, QuantumCircuit):  # a block of control flow
        return _text(value, names)
    if isinstance(value, np.ndarray):  # a matrix, whose str() would be shortened
        return f"{value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if renamed := {p: names[p] for p in getattr(value, "parameters", ()) if p in names}:
        value = value.subs(renamed)
    try:
        constant, slopes = linear_angle(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{constant} {sorted((parameter.name, slope) for parameter, slope in slopes.items())}"
