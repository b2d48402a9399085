# pyright: reportInvalidTypeForm=false, reportAttributeAccessIssue=false
# (Qiskit's Parameter and ParameterExpression come from a compiled module without types.)
"""Circuits by name: an encoding of the inputs, and layers with weights after it.

Every circuit is an :class:`Ansatz`, and ``named_circuit("ring", num_qubits=6)`` makes one. Circuits of one's own need
none of this: ``Ansatz(circuit, inputs, weights)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, get_args

from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.circuit.library import efficient_su2, pauli_feature_map, real_amplitudes, zz_feature_map

from lightning_qsgd.files import close
from lightning_qsgd.quantum.circuits import Ansatz, check_size, layered_circuit, score_circuit, superposition_circuit

Rotation = Literal["rx", "ry", "rz"]
Encoding = Literal["angle", "iqp", "zz", "pauli", "none"]
ROTATIONS: tuple[Rotation, ...] = ("rx", "ry", "rz")
GENERAL = ("rz", "ry", "rz")  # any rotation of a qubit

#: A layer: it appends itself to the circuit, with weights from the iterator; its number counts from 0.
Layer = Callable[[QuantumCircuit, Iterator[Any], int], None]


def named_circuit(name: str, **options: Any) -> Ansatz:
    """A circuit by its name.

    Args:
        name: a name in ``CIRCUITS``, such as "ring".
        **options: of the function behind the name, such as ``num_qubits`` and ``depth``.

    Returns:
        The circuit with its inputs and weights.

    Raises:
        ValueError: if there is no circuit of this name, an option is unknown, or its value is invalid.

    Example:
        >>> named_circuit("ring", num_qubits=6, depth=2).num_weights
        36
    """
    if name not in CIRCUITS:
        raise ValueError(f"Invalid circuit: {name!r}{close(name, CIRCUITS)}; known: {', '.join(CIRCUITS)}")
    known_options = inspect.signature(CIRCUITS[name]).parameters
    if unknown := [option for option in options if option not in known_options]:
        raise ValueError(f"Invalid option of circuit {name!r}: {unknown[0]!r}; it has {', '.join(known_options)}")
    return CIRCUITS[name](**options)


# ---- an encoding and layers


def layers_circuit(
    layer: Layer,
    num_weights: int | Sequence[int],
    num_qubits: int,
    depth: int,
    *,
    name: str,
    encoding: Encoding = "angle",
    encoding_gate: Rotation = "ry",
    reuploading: bool = False,
) -> Ansatz:
    """An encoding, and ``depth`` layers with weights after it.

    Args:
        layer: appends one layer; takes the circuit, an iterator of weights, and the layer's number.
        num_weights: weights of a layer, or of each layer.
        num_qubits: number of qubits n, at least 1.
        depth: number of layers, at least 1.
        name: of the circuit.
        encoding: how the n inputs enter. "angle" (default): ``encoding_gate`` by input q on qubit q. "iqp": H and RZ by
            the inputs, and RZZ by their products (Havlicek et al. 2019, arXiv 1804.11326). "zz", "pauli": Qiskit's
            ``zz_feature_map`` and ``pauli_feature_map`` with one repetition. "none": no inputs.
        encoding_gate: gate of "angle". Default: "ry".
        reuploading: encode again before every layer (Perez-Salinas et al. 2020, arXiv 1907.02085). Default: False.

    Returns:
        An ansatz with inputs x (none if ``encoding`` is "none") and weights w, layer by layer.

    Raises:
        ValueError: if an option is invalid.
    """
    check_size(num_qubits, depth)
    counts = [num_weights] * depth if isinstance(num_weights, int) else list(num_weights)
    x, w = ParameterVector("x", num_qubits), ParameterVector("w", sum(counts))
    circuit, weights = QuantumCircuit(num_qubits, name=name), iter(w)
    for number in range(depth):
        if encoding != "none" and (number == 0 or reuploading):
            circuit.compose(_encoding(encoding, x, encoding_gate), inplace=True)
        layer(circuit, weights, number)
    return Ansatz(circuit, [] if encoding == "none" else list(x), list(w))


def _encoding(encoding: str, x: ParameterVector, gate: str = "ry") -> QuantumCircuit:
    if encoding not in get_args(Encoding):
        raise ValueError(f"Invalid encoding: {encoding!r}; it must be one of {', '.join(get_args(Encoding))}")
    if gate not in ROTATIONS:
        raise ValueError(f"Invalid encoding_gate: {gate!r}; it must be one of {', '.join(ROTATIONS)}")
    n = len(x)
    if encoding in ("zz", "pauli"):
        made = (zz_feature_map if encoding == "zz" else pauli_feature_map)(n, reps=1)
        return made.assign_parameters(dict(zip(made.parameters, x, strict=True)))
    circuit = QuantumCircuit(n)
    if encoding == "angle":
        for q in range(n):
            getattr(circuit, gate)(x[q], q)
        return circuit
    circuit.h(range(n))
    for q in range(n):
        circuit.rz(x[q], q)
    for a, b in combinations(range(n), 2):
        circuit.rzz(x[a] * x[b], a, b)
    return circuit


def _rotate(
    circuit: QuantumCircuit, weights: Iterator[Any], gates: Sequence[str], qubits: Sequence[int] | None = None
) -> None:
    for q in range(circuit.num_qubits) if qubits is None else qubits:
        for gate in gates:
            getattr(circuit, gate)(next(weights), q)


def _rotations_and(
    entangle: Callable[[QuantumCircuit, int], None], name: str, gates: Sequence[str], num_qubits: int, **options: Any
) -> Ansatz:
    """Layers of ``gates`` on each qubit, and of what ``entangle`` appends, given the circuit and the layer's number."""
    if isinstance(gates, str) or not gates or any(gate not in ROTATIONS for gate in gates):
        raise ValueError(f"Invalid gates: {gates!r}; it must be a list of {', '.join(ROTATIONS)}, such as ['ry', 'rz']")

    def layer(circuit: QuantumCircuit, weights: Iterator[Any], number: int) -> None:
        _rotate(circuit, weights, gates)
        entangle(circuit, number)

    return layers_circuit(layer, num_qubits * len(gates), num_qubits, name=name, **options)


# ---- circuits with layers


def ring_circuit(
    num_qubits: int = 4,
    depth: int = 2,
    gates: Sequence[Rotation] = ROTATIONS,
    encoding: Encoding = "angle",
    encoding_gate: Rotation = "ry",
    reuploading: bool = False,
) -> Ansatz:
    """Rotations on each qubit and a ring of CNOTs, ``depth`` times, after an encoding.

    Args:
        num_qubits, depth, encoding, encoding_gate, reuploading: as in :func:`layers_circuit`. Default: 4 and 2.
        gates: rotations of each qubit in each layer, in their order. Default: RX, RY, RZ.

    Returns:
        An ansatz with n inputs and depth * n * len(gates) weights, by layer, qubit and gate.

    Raises:
        ValueError: if an option is invalid.
    """

    def entangle(circuit: QuantumCircuit, number: int) -> None:
        n = circuit.num_qubits
        for q in range(n if n > 2 else n - 1):
            circuit.cx(q, (q + 1) % n)

    return _rotations_and(
        entangle, "ring", gates, num_qubits, depth=depth, encoding=encoding, encoding_gate=encoding_gate,
        reuploading=reuploading,
    )  # fmt: skip


def brick_circuit(
    num_qubits: int = 4,
    depth: int = 2,
    gates: Sequence[Rotation] = ("ry", "rz"),
    encoding: Encoding = "angle",
    encoding_gate: Rotation = "ry",
    reuploading: bool = False,
) -> Ansatz:
    """Rotations on each qubit, then CZ on pairs (0, 1), (2, 3), ... in even layers, (1, 2), (3, 4), ... in odd ones.

    Args and returns as in :func:`ring_circuit`, with ``gates`` RY and RZ by default.
    """

    def entangle(circuit: QuantumCircuit, number: int) -> None:
        for q in range(number % 2, circuit.num_qubits - 1, 2):
            circuit.cz(q, q + 1)

    return _rotations_and(
        entangle, "brick", gates, num_qubits, depth=depth, encoding=encoding, encoding_gate=encoding_gate,
        reuploading=reuploading,
    )  # fmt: skip


def all_to_all_circuit(
    num_qubits: int = 4,
    depth: int = 2,
    gates: Sequence[Rotation] = ("ry", "rz"),
    encoding: Encoding = "angle",
    encoding_gate: Rotation = "ry",
    reuploading: bool = False,
) -> Ansatz:
    """Rotations on each qubit, then a CNOT from each qubit to each later one.

    Args and returns as in :func:`ring_circuit`, with ``gates`` RY and RZ by default.
    """

    def entangle(circuit: QuantumCircuit, number: int) -> None:
        for a, b in combinations(range(circuit.num_qubits), 2):
            circuit.cx(a, b)

    return _rotations_and(
        entangle, "all_to_all", gates, num_qubits, depth=depth, encoding=encoding, encoding_gate=encoding_gate,
        reuploading=reuploading,
    )  # fmt: skip


def strongly_entangling_circuit(
    num_qubits: int = 4,
    depth: int = 2,
    encoding: Encoding = "angle",
    encoding_gate: Rotation = "rx",
    reuploading: bool = False,
) -> Ansatz:
    """RZ, RY, RZ on each qubit and a ring of CNOTs, whose distance grows from layer to layer.

    The circuit-centric classifier (Schuld et al. 2020, arXiv 1804.00633) and PennyLane's ``StronglyEntanglingLayers``:
    CNOTs of layer l go from qubit q to q + 1 + l mod (n - 1), counted around.

    Args:
        num_qubits, depth, encoding, encoding_gate, reuploading: as in :func:`layers_circuit`. Default: 4 and 2, and RX
            by the inputs.

    Returns:
        An ansatz with n inputs and 3 * depth * n weights, by layer, qubit and gate.

    Raises:
        ValueError: if an option is invalid.
    """

    def layer(circuit: QuantumCircuit, weights: Iterator[Any], number: int) -> None:
        n = circuit.num_qubits
        _rotate(circuit, weights, GENERAL)
        for q in range(n if n > 1 else 0):
            circuit.cx(q, (q + 1 + number % (n - 1)) % n)

    return layers_circuit(
        layer, 3 * num_qubits, num_qubits, depth, name="strongly_entangling", encoding=encoding,
        encoding_gate=encoding_gate, reuploading=reuploading,
    )  # fmt: skip


def su4_circuit(
    num_qubits: int = 4,
    depth: int = 2,
    shape: Literal["brick", "staircase"] = "brick",
    encoding: Encoding = "angle",
    encoding_gate: Rotation = "ry",
    reuploading: bool = False,
) -> Ansatz:
    """General two-qubit gates (SU(4), 15 weights each) on neighbours.

    A block is RZ, RY, RZ on both qubits, RXX, RYY and RZZ, and RZ, RY, RZ on both again (the Cartan decomposition).

    Args:
        num_qubits: number of qubits n, at least 2. Default: 4.
        shape: "brick" (default): pairs (0, 1), (2, 3), ... in even layers, (1, 2), (3, 4), ... in odd ones;
            "staircase": (0, 1), (1, 2), ... in every layer, a matrix product state's circuit (Rudolph et al. 2023,
            arXiv 2208.13673).
        depth, encoding, encoding_gate, reuploading: as in :func:`layers_circuit`. Default: 2 layers.

    Returns:
        An ansatz with n inputs and 15 weights for each block, block by block.

    Raises:
        ValueError: if an option is invalid.
    """
    check_size(num_qubits, depth, least=2)
    if shape not in ("brick", "staircase"):
        raise ValueError(f"Invalid shape: {shape!r}; it must be 'brick' or 'staircase'")

    def pairs(number: int) -> list[tuple[int, int]]:
        first, step = (number % 2, 2) if shape == "brick" and num_qubits > 2 else (0, 1 if shape == "staircase" else 2)
        return [(q, q + 1) for q in range(first, num_qubits - 1, step)]

    def layer(circuit: QuantumCircuit, weights: Iterator[Any], number: int) -> None:
        for pair in pairs(number):
            _rotate(circuit, weights, GENERAL, pair)
            for gate in ("rxx", "ryy", "rzz"):
                getattr(circuit, gate)(next(weights), *pair)
            _rotate(circuit, weights, GENERAL, pair)

    return layers_circuit(
        layer, [15 * len(pairs(number)) for number in range(depth)], num_qubits, depth, name=f"su4_{shape}",
        encoding=encoding, encoding_gate=encoding_gate, reuploading=reuploading,
    )  # fmt: skip


def tree_tensor_circuit(num_qubits: int = 4, encoding: Encoding = "angle", encoding_gate: Rotation = "ry") -> Ansatz:
    """A tree: RY on each remaining qubit, CNOTs that join neighbours in pairs, until qubit 0 remains, which gets an RY.

    Measure Z of qubit 0 (Grant et al. 2018, arXiv 1804.03680, with real gates).

    Args:
        num_qubits: number of qubits n, at least 2. Default: 4.
        encoding, encoding_gate: as in :func:`layers_circuit`.

    Returns:
        An ansatz with n inputs and, where n is a power of 2, 2 n - 1 weights, level by level.

    Raises:
        ValueError: if an option is invalid.
    """
    check_size(num_qubits, least=2)
    levels = [list(range(num_qubits))]
    while len(levels[-1]) > 1:
        levels.append(levels[-1][::2])

    def layer(circuit: QuantumCircuit, weights: Iterator[Any], number: int) -> None:
        for level in levels:
            for q in level:
                circuit.ry(next(weights), q)
            for kept, joined in zip(level[::2], level[1::2], strict=False):
                circuit.cx(joined, kept)

    count = sum(map(len, levels))
    return layers_circuit(
        layer, count, num_qubits, 1, name="tree_tensor", encoding=encoding, encoding_gate=encoding_gate
    )


# ---- Qiskit's


def real_amplitudes_circuit(
    num_qubits: int = 4,
    depth: int = 2,
    entanglement: str = "reverse_linear",
    encoding: Encoding = "angle",
    encoding_gate: Rotation = "ry",
) -> Ansatz:
    """Qiskit's ``real_amplitudes`` after an encoding: RY and CNOTs, ``depth`` times, and a last RY.

    Args:
        num_qubits, depth, encoding, encoding_gate: as in :func:`layers_circuit`; ``depth`` is Qiskit's ``reps``.
        entanglement: as Qiskit's. Default: "reverse_linear".

    Returns:
        An ansatz with n inputs and (depth + 1) * n weights.
    """
    check_size(num_qubits, depth)
    return _after(real_amplitudes(num_qubits, entanglement, depth), encoding, encoding_gate)


def efficient_su2_circuit(
    num_qubits: int = 4,
    depth: int = 2,
    entanglement: str = "reverse_linear",
    encoding: Encoding = "angle",
    encoding_gate: Rotation = "ry",
) -> Ansatz:
    """Qiskit's ``efficient_su2`` after an encoding: RY, RZ and CNOTs, ``depth`` times, and last RY and RZ.

    Args and returns as in :func:`real_amplitudes_circuit`, with 2 * (depth + 1) * n weights.
    """
    check_size(num_qubits, depth)
    return _after(efficient_su2(num_qubits, entanglement=entanglement, reps=depth), encoding, encoding_gate)


def _after(circuit: QuantumCircuit, encoding: Encoding, gate: Rotation) -> Ansatz:
    n, weights = circuit.num_qubits, list(circuit.parameters)  # a vector's elements, in their order
    if encoding == "none":
        return Ansatz(circuit, [], weights)
    x = ParameterVector("x", n)
    whole = QuantumCircuit(n, name=circuit.name)
    whole.compose(_encoding(encoding, x, gate), inplace=True)
    whole.compose(circuit, inplace=True)
    return Ansatz(whole, list(x), weights)


def feature_map_circuit(
    num_qubits: int = 4, depth: int = 2, kind: Literal["iqp", "zz", "pauli"] = "zz", entanglement: str = "full"
) -> Ansatz:
    """An encoding alone, ``depth`` times: quantum kernels and models whose trainable part is classical.

    Args:
        num_qubits: number of qubits n and of inputs. Default: 4.
        depth: repetitions, at least 1. Default: 2.
        kind: "zz" (default), "pauli" or "iqp", as in :func:`layers_circuit`.
        entanglement: of "zz" and "pauli", as Qiskit's. Default: "full".

    Returns:
        An ansatz with n inputs and no weights.

    Raises:
        ValueError: if an option is invalid.
    """
    check_size(num_qubits, depth)
    if kind in ("zz", "pauli"):
        make = zz_feature_map if kind == "zz" else pauli_feature_map
        circuit = make(num_qubits, reps=depth, entanglement=entanglement)
        return Ansatz(circuit, list(circuit.parameters))
    if kind != "iqp":
        raise ValueError(f"Invalid kind: {kind!r}; it must be 'iqp', 'zz' or 'pauli'")
    x, circuit = ParameterVector("x", num_qubits), QuantumCircuit(num_qubits, name="iqp")
    for _ in range(depth):
        circuit.compose(_encoding("iqp", x), inplace=True)
    return Ansatz(circuit, list(x))


def _kind(kind: Literal["iqp", "zz", "pauli"]) -> Callable[..., Ansatz]:
    def make(num_qubits: int = 4, depth: int = 2, entanglement: str = "full") -> Ansatz:
        return feature_map_circuit(num_qubits, depth, kind, entanglement)

    return make


def _shaped(shape: Literal["brick", "staircase"]) -> Callable[..., Ansatz]:
    def make(
        num_qubits: int = 4,
        depth: int = 2,
        encoding: Encoding = "angle",
        encoding_gate: Rotation = "ry",
        reuploading: bool = False,
    ) -> Ansatz:
        return su4_circuit(num_qubits, depth, shape, encoding, encoding_gate, reuploading)

    return make


#: Circuits by name.
CIRCUITS: dict[str, Callable[..., Ansatz]] = {
    "superposition": superposition_circuit,
    "layered": layered_circuit,
    "score": score_circuit,
    "ring": ring_circuit,
    "brick": brick_circuit,
    "all_to_all": all_to_all_circuit,
    "strongly_entangling": strongly_entangling_circuit,
    "su4_brick": _shaped("brick"),
    "su4_staircase": _shaped("staircase"),
    "tree_tensor": tree_tensor_circuit,
    "real_amplitudes": real_amplitudes_circuit,
    "efficient_su2": efficient_su2_circuit,
    "iqp": _kind("iqp"),
    "zz_feature_map": _kind("zz"),
    "pauli_feature_map": _kind("pauli"),
}
