"""The angles of a circuit that stay fixed: rotations of the paper's circuit by name, none of a user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from lightning_qsgd.optim.perturbation import require

if TYPE_CHECKING:
    from lightning_qsgd.optim.circuit_perturbation import CircuitPerturbation

Rotations = Literal["aligned", "zero", "random"]


def check_rotations(circuit: CircuitPerturbation) -> None:
    """Refuse rotations that the circuit cannot have.

    Raises:
        ValueError: for another name, another number of angles, or with an ansatz of the subclass's own, which has none.
    """
    rotations, size = circuit.rotations, _size(circuit)
    if circuit.own_ansatz:
        rule = f"left out: {type(circuit).__name__} has a circuit of its own, whose fixed angles are its weights"
        require("rotations", rotations, rotations in ("aligned", "zero"), rule)
    elif isinstance(rotations, str):
        require("rotations", rotations, rotations in get_args(Rotations), "aligned, zero, random or a list")
    elif len(rotations) != size:
        raise ValueError(f"Invalid rotations: {len(rotations)} angles; this circuit takes {size}")


def check_sizes(circuit: CircuitPerturbation) -> None:
    """Refuse an ansatz of the subclass's own that has not one qubit and one input for each coordinate of a block.

    Raises:
        ValueError: for other sizes, or weights that are missing or too many.
    """
    if not circuit.own_ansatz:
        return
    ansatz, name, n = circuit.ansatz, type(circuit).__name__, circuit.num_qubits
    if (ansatz.num_qubits, ansatz.num_inputs) != (n, n):
        raise ValueError(
            f"Invalid ansatz: that of {name} has {ansatz.num_qubits} qubits and {ansatz.num_inputs} inputs; with "
            f"num_qubits={n} it needs {n} of each, qubit k answering for input k. An ancilla has no coordinate: leave "
            "it out, or raise num_qubits and give it an input"
        )
    if len(circuit.weights) != ansatz.num_weights:
        raise ValueError(
            f"Invalid weights: {len(circuit.weights)}; the circuit of {name} has {ansatz.num_weights}: set weights = "
            f"np.array([...]) in {name}"
        )


def fixed_angles(circuit: CircuitPerturbation) -> np.ndarray:
    """See ``CircuitPerturbation.weights``.

    Raises:
        ValueError: if an ansatz of the subclass's own has weights, which no rotations name.
    """
    rotations, size = circuit.rotations, _size(circuit)
    if circuit.own_ansatz:
        if count := circuit.ansatz.num_weights:
            name = type(circuit).__name__
            raise ValueError(
                f"Invalid weights: none; the circuit of {name} has {count}: set weights = np.array([...]) in {name}"
            )
        return np.zeros(0)
    if rotations == "random":
        return np.random.default_rng(circuit.rotation_seed).uniform(-np.pi, np.pi, size)
    if rotations == "aligned":
        from lightning_qsgd.quantum import aligned_rotations

        rotations = aligned_rotations(circuit.num_qubits, circuit.depth, circuit.entanglement)
    return np.zeros(size) if isinstance(rotations, str) else np.array(rotations, dtype=np.float64)


def fingerprint(circuit: CircuitPerturbation) -> str:
    """8 hex digits of the circuit with its fixed angles."""
    from lightning_qsgd.quantum.fingerprint import of_ansatz

    return of_ansatz(circuit.ansatz, circuit.weights)[:8]


def _size(circuit: CircuitPerturbation) -> int:
    return (2 * circuit.depth - 1) * circuit.num_qubits
