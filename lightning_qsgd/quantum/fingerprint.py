"""Fingerprints of circuits and requests that are equal in every process.

Circuits enter as text: the ids of Qiskit's parameters, and so its own serialisation, differ between processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from qiskit import QuantumCircuit
from qiskit.circuit import AnnotatedOperation, ControlledGate, Gate, Instruction, Parameter
from qiskit.circuit.library import PauliEvolutionGate, get_standard_gate_name_mapping
from qiskit.primitives.containers.sampler_pub import SamplerPub

from lightning_qsgd.quantum.angles import linear_angle
from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.normal_form import outcome_qubits

_STANDARD = frozenset(get_standard_gate_name_mapping())


def of_ansatz(ansatz: Ansatz, weights: ArrayLike | None = None) -> str:
    """SHA-256 of a circuit, whatever its parameters are called, with its fixed weights if given.

    Weights count to 1e-9. Angles that are linear in the parameters count by their coefficients, others as written.
    """
    names = {p: Parameter(f"{kind}{i}") for kind in ("inputs", "weights") for i, p in enumerate(getattr(ansatz, kind))}
    fixed = np.round(np.asarray([] if weights is None else weights, float), 9) + 0.0  # no negative zeros
    text = f"{len(ansatz.inputs)} {fixed.tolist()}\n{_text(ansatz.circuit.assign_parameters(names))}"
    if ansatz.circuit.layout is not None:
        text += f"\n{outcome_qubits(ansatz.circuit)}"
    return hashlib.sha256(text.encode()).hexdigest()


def of_request(pubs: Iterable[SamplerPub], where: str) -> str:
    """SHA-256 of a request: circuits, parameter values, shots, and ``where`` it runs."""
    digest = hashlib.sha256(where.encode())
    for pub in pubs:
        values = pub.parameter_values.as_array(pub.circuit.parameters)
        digest.update(_text(pub.circuit).encode())
        digest.update(f"{[p.name for p in pub.circuit.parameters]} {values.shape} {pub.shots}".encode())
        digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return digest.hexdigest()


def _text(circuit: QuantumCircuit) -> str:
    lines = [f"{circuit.num_qubits} {[(register.name, register.size) for register in circuit.cregs]}"]
    for instruction in circuit.data:
        operation: Any = instruction.operation
        bits = [circuit.find_bit(bit).index for bit in (*instruction.qubits, *instruction.clbits)]
        name = operation.name
        if type(operation) in (Instruction, Gate, ControlledGate) and operation.definition is not None:
            name = f"({_text(operation.definition)})"  # a circuit turned into a gate: its name is a running number
            base: Any = getattr(operation, "base_gate", None)
            if _borrows_a_name(base):
                name += f" of ({_text(base.definition)})"  # Qiskit defines a controlled block by its name
        elif _is_more_than_its_name(operation):
            name = f"{name} ({_deed(operation)})"
        angles = [_parameter(value) for value in getattr(operation, "params", ())]
        lines.append(f"{name} {len(instruction.qubits)} {bits} {angles}")
    return "\n".join(lines)


def _borrows_a_name(gate: Any) -> bool:
    """Whether a block, or a block in it, is called like a standard gate."""
    if type(gate) not in (Instruction, Gate) or gate.definition is None:
        return False
    return gate.name in _STANDARD or any(_borrows_a_name(inner.operation) for inner in gate.definition.data)


def _is_more_than_its_name(operation: Any) -> bool:
    """Whether name and parameters leave open what an operation does."""
    if isinstance(operation, (AnnotatedOperation, PauliEvolutionGate)) or not isinstance(operation, Instruction):
        return True
    module = getattr(operation, "base_class", type(operation)).__module__
    return not module.startswith("qiskit.circuit.")  # a class of the user's, or of a QASM file


def _deed(operation: Any) -> str:
    """What an operation does: its modifiers and base, its definition, or its matrix."""
    if isinstance(operation, AnnotatedOperation):
        base = QuantumCircuit(operation.base_op.num_qubits)
        base.append(operation.base_op, base.qubits)
        return f"{operation.modifiers} {_text(base)}"
    if not isinstance(operation, Instruction) and hasattr(operation, "to_instruction"):
        operation = operation.to_instruction()
    if (definition := getattr(operation, "definition", None)) is not None:
        return _text(definition)
    matrix: Any = operation
    return _parameter(matrix.to_matrix()) if hasattr(operation, "__array__") else ""


def _parameter(value: Any) -> str:
    if isinstance(value, QuantumCircuit):  # a block of control flow
        return _text(value)
    if isinstance(value, np.ndarray):  # a matrix: its own text would be shortened
        return f"{value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    try:
        constant, slopes = linear_angle(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{constant} {sorted((parameter.name, slope) for parameter, slope in slopes.items())}"
