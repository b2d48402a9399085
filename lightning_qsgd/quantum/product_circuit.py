# pyright: reportInvalidTypeForm=false, reportAttributeAccessIssue=false
# (Qiskit's Parameter and ParameterExpression come from a compiled module without types.)
"""The product circuit of an ansatz: its gates on single qubits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from qiskit import QuantumCircuit
from qiskit.circuit import Barrier, CircuitInstruction, Gate, Instruction

from lightning_qsgd.quantum.circuits import Ansatz


class ProductCircuit(NamedTuple):
    """A circuit without its gates on two or more qubits.

    Attributes:
        ansatz: the circuit. It has all inputs, also those that no gate depends on any more.
        weights: the places among the original weights of those that are left, ascending.
        removed: number of gates that were removed.
    """

    ansatz: Ansatz
    weights: list[int]
    removed: int


def product_circuit(ansatz: Ansatz) -> ProductCircuit:
    """Remove the gates on two or more qubits from a circuit.

    A block of gates (``circuit.to_gate()``) is opened. Any other gate on several qubits, such as cp or rzz, is removed
    as a whole.

    Args:
        ansatz: the circuit.

    Raises:
        ValueError: if the circuit was transpiled for a device, whose router has moved its qubits by such gates.
    """
    circuit = ansatz.circuit
    if circuit.layout is not None:
        raise ValueError(
            "the circuit was transpiled for a device, and its router moved qubits by gates on two of them; pass the "
            "circuit from before"
        )
    plain, removed = circuit.copy_empty_like(), 0
    for instruction in _opened(circuit, {bit: bit for bit in (*circuit.qubits, *circuit.clbits)}):
        if len(instruction.qubits) > 1 and not isinstance(instruction.operation, Barrier):
            removed += 1
        else:
            plain.append(instruction)
    kept = [k for k, weight in enumerate(ansatz.weights) if weight in plain.parameters]
    for parameter in set(ansatz.inputs).difference(plain.parameters):
        plain.global_phase += parameter  # an ansatz names the circuit's parameters, and no outcome depends on it
    encoding = ansatz.encoding
    options: dict[str, Any] = {} if encoding is None else {"encode": encoding[0], "num_inputs": encoding[1]}
    return ProductCircuit(Ansatz(plain, ansatz.inputs, [ansatz.weights[k] for k in kept], **options), kept, removed)


def _opened(circuit: QuantumCircuit, places: Mapping[Any, Any]) -> Iterator[CircuitInstruction]:
    """The instructions of a circuit whose bits have these places, with blocks opened."""
    for instruction in circuit.data:
        operation = instruction.operation
        qubits, clbits = ([places[bit] for bit in bits] for bits in (instruction.qubits, instruction.clbits))
        if type(operation) in (Gate, Instruction) and len(qubits) > 1 and operation.definition is not None:
            inner = operation.definition
            bits = zip((*inner.qubits, *inner.clbits), (*qubits, *clbits), strict=True)
            yield from _opened(inner, dict(bits))
        else:
            yield CircuitInstruction(operation, qubits, clbits)
