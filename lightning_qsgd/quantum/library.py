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

import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.circuit.library import efficient_su2, pauli_feature_map, real_amplitudes, zz_feature_map
from torch import Tensor

from lightning_qsgd.files import close
from lightning_qsgd.quantum.circuits import Ansatz, check_size, layered_circuit, score_circuit, superposition_circuit

Rotation = Literal["rx", "ry", "rz"]
Encoding = Literal["angle", "iqp", "zz", "pauli", "amplitude", "none"]
ROTATIONS: tuple[Rotation, ...] = ("rx", "ry", "rz")
MAX_AMPLITUDE_QUBITS = 10
BLOCKS = "identity_blocks"  # in a circuit's metadata: numbers of weights of layers that their inverses follow
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
    counts: Sequence[int],
    num_qubits: int,
    *,
    name: str,
    encoding: Encoding = "angle",
    encoding_gate: Rotation = "ry",
    reuploading: bool = False,
    identity_blocks: bool = False,
) -> Ansatz:
    """An encoding, and layers with weights after it.

    Args:
        layer: appends one layer; takes the circuit, an iterator of weights, and the layer's number.
        counts: the number of weights of each layer.
        num_qubits: number of qubits n, at least 1.
        name: of the circuit.
        encoding: how the inputs enter. "angle" (default): ``encoding_gate`` by input q on qubit q. "iqp": H and RZ by
            the inputs, and RZZ by their products (Havlicek et al. 2019, arXiv 1804.11326). "zz", "pauli": Qiskit's
            ``zz_feature_map`` and ``pauli_feature_map`` with one repetition. "amplitude": the inputs are 2**n real
            amplitudes; see :func:`amplitude_circuit`. "none": no inputs.
        encoding_gate: gate of "angle". Default: "ry".
        reuploading: encode again before every layer (Perez-Salinas et al. 2020, arXiv 1907.02085). Default: False.
        identity_blocks: append to each layer its inverse, with separate weights: with ``initial="identity"`` a
            :class:`QuantumLayer` starts where each pair is the identity (Grant et al. 2019, arXiv 1903.05076). Default:
            False.

    Returns:
        An ansatz with n inputs x (2**n for "amplitude", none for "none") and weights w, layer by layer.

    Raises:
        ValueError: if an option is invalid.
    """
    x, w = _inputs(encoding, num_qubits), ParameterVector("w", sum(counts) * (1 + identity_blocks))
    circuit, weights = QuantumCircuit(num_qubits, name=name), iter(w)
    for number in range(len(counts)):
        if number == 0 or reuploading:
            circuit.compose(_encoding(encoding, x, num_qubits, encoding_gate), inplace=True)
        layer(circuit, weights, number)
        if identity_blocks:
            back = QuantumCircuit(num_qubits)
            layer(back, weights, number)
            circuit.compose(back.inverse(), inplace=True)
    if identity_blocks:
        circuit.metadata = {BLOCKS: list(counts)}
    return _encoded(circuit, encoding, x, list(w))


def with_layers(
    make: Callable[..., tuple[Layer, int | Sequence[int]]], encoding_gate: Rotation = "ry", least: int = 1
) -> Callable[..., Ansatz]:
    """The function of a circuit with an encoding, from one that returns its layer, and how many weights a layer has.

    Args:
        make: takes ``num_qubits``, ``depth`` and perhaps other options, with defaults.
        encoding_gate: default of :func:`layers_circuit`'s option.
        least: the lowest number of qubits.

    Returns:
        A function with the options of ``make``, and those of :func:`layers_circuit`.
    """
    shared = [p for p in inspect.signature(layers_circuit).parameters.values() if p.kind is p.KEYWORD_ONLY][1:]
    shared = [p.replace(default=encoding_gate) if p.name == "encoding_gate" else p for p in shared]
    name = make.__name__.removesuffix("_layer")

    def circuit(num_qubits: int = 4, depth: int = 2, **options: Any) -> Ansatz:
        check_size(num_qubits, depth, least)
        general = {p.name: options.pop(p.name, p.default) for p in shared}
        layer, count = make(num_qubits, depth, **options)
        counts = [count] * depth if isinstance(count, int) else count
        return layers_circuit(layer, counts, num_qubits, name=name, **general)

    own = inspect.signature(make)
    signature = own.replace(parameters=[*own.parameters.values(), *shared], return_annotation=Ansatz)
    circuit.__signature__, circuit.__doc__ = signature, make.__doc__
    return circuit


def _inputs(encoding: str, num_qubits: int) -> list[Any]:
    count = {"none": 0, "amplitude": 2**num_qubits - 1}.get(encoding, num_qubits)
    return list(ParameterVector("x", count))


def _encoded(circuit: QuantumCircuit, encoding: str, x: Sequence[Any], w: Sequence[Any]) -> Ansatz:
    if encoding == "amplitude":
        return Ansatz(circuit, x, w, encode=amplitude_angles, num_inputs=2**circuit.num_qubits)
    return Ansatz(circuit, x, w)


def _encoding(encoding: str, x: Sequence[Any], num_qubits: int, gate: str = "ry") -> QuantumCircuit:
    if encoding not in get_args(Encoding):
        raise ValueError(f"Invalid encoding: {encoding!r}; it must be one of {', '.join(get_args(Encoding))}")
    if gate not in ROTATIONS:
        raise ValueError(f"Invalid encoding_gate: {gate!r}; it must be one of {', '.join(ROTATIONS)}")
    n = num_qubits
    if encoding in ("zz", "pauli"):
        made = (zz_feature_map if encoding == "zz" else pauli_feature_map)(n, reps=1)
        return made.assign_parameters(dict(zip(made.parameters, x, strict=True)))
    circuit = QuantumCircuit(n)
    if encoding == "none":
        return circuit
    if encoding == "amplitude":
        return _amplitude_preparation(n, x)
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


def _rotations_and(entangle: Callable[[QuantumCircuit, int], None], gates: Sequence[str]) -> Layer:
    """A layer of ``gates`` on each qubit, and of what ``entangle`` appends, given the circuit and a layer's number."""
    if isinstance(gates, str) or not gates or any(gate not in ROTATIONS for gate in gates):
        raise ValueError(f"Invalid gates: {gates!r}; it must be a list of {', '.join(ROTATIONS)}, such as ['ry', 'rz']")

    def layer(circuit: QuantumCircuit, weights: Iterator[Any], number: int) -> None:
        _rotate(circuit, weights, gates)
        entangle(circuit, number)

    return layer


# ---- circuits with layers: each function returns the layer, and the number of weights of a layer, or of each


def ring_layer(num_qubits: int = 4, depth: int = 2, gates: Sequence[Rotation] = ROTATIONS) -> tuple[Layer, int]:
    """Rotations on each qubit, by default RX, RY and RZ, and a ring of CNOTs."""

    def entangle(circuit: QuantumCircuit, number: int) -> None:
        for q in range(num_qubits if num_qubits > 2 else num_qubits - 1):
            circuit.cx(q, (q + 1) % num_qubits)

    return _rotations_and(entangle, gates), num_qubits * len(gates)


def brick_layer(num_qubits: int = 4, depth: int = 2, gates: Sequence[Rotation] = ("ry", "rz")) -> tuple[Layer, int]:
    """Rotations on each qubit, then CZ on pairs (0, 1), (2, 3), ... in even layers, (1, 2), (3, 4), ... in odd ones."""

    def entangle(circuit: QuantumCircuit, number: int) -> None:
        for q in range(number % 2, num_qubits - 1, 2):
            circuit.cz(q, q + 1)

    return _rotations_and(entangle, gates), num_qubits * len(gates)


def all_to_all_layer(
    num_qubits: int = 4, depth: int = 2, gates: Sequence[Rotation] = ("ry", "rz")
) -> tuple[Layer, int]:
    """Rotations on each qubit, then a CNOT from each qubit to each later one."""

    def entangle(circuit: QuantumCircuit, number: int) -> None:
        for a, b in combinations(range(num_qubits), 2):
            circuit.cx(a, b)

    return _rotations_and(entangle, gates), num_qubits * len(gates)


def strongly_entangling_layer(num_qubits: int = 4, depth: int = 2) -> tuple[Layer, int]:
    """RZ, RY, RZ on each qubit and a ring of CNOTs, whose distance grows from layer to layer.

    The circuit-centric classifier (Schuld et al. 2020, arXiv 1804.00633) and PennyLane's ``StronglyEntanglingLayers``:
    CNOTs of layer l go from qubit q to q + 1 + l mod (n - 1), counted around.
    """

    def entangle(circuit: QuantumCircuit, number: int) -> None:
        for q in range(num_qubits if num_qubits > 1 else 0):
            circuit.cx(q, (q + 1 + number % (num_qubits - 1)) % num_qubits)

    return _rotations_and(entangle, GENERAL), 3 * num_qubits


def su4_brick_layer(num_qubits: int = 4, depth: int = 2) -> tuple[Layer, list[int]]:
    """General two-qubit gates on pairs (0, 1), (2, 3), ... in even layers, (1, 2), (3, 4), ... in odd ones."""

    def pairs(number: int) -> range:
        return range(number % 2 if num_qubits > 2 else 0, num_qubits - 1, 2)

    return _su4_on(pairs), [15 * len(pairs(number)) for number in range(depth)]


def su4_staircase_layer(num_qubits: int = 4, depth: int = 2) -> tuple[Layer, int]:
    """General two-qubit gates on pairs (0, 1), (1, 2), ... in every layer.

    It is the circuit of a matrix product state (Rudolph et al. 2023, arXiv 2208.13673).
    """
    return _su4_on(lambda number: range(num_qubits - 1)), 15 * (num_qubits - 1)


def _su4_on(pairs: Callable[[int], range]) -> Layer:
    """General gates (SU(4), 15 weights each) on pairs of neighbours, given the first of each pair in layer number.

    A block is RZ, RY, RZ on both qubits, RXX, RYY and RZZ, and RZ, RY, RZ on both again (the Cartan decomposition).
    """

    def layer(circuit: QuantumCircuit, weights: Iterator[Any], number: int) -> None:
        for q in pairs(number):
            _rotate(circuit, weights, GENERAL, (q, q + 1))
            for gate in ("rxx", "ryy", "rzz"):
                getattr(circuit, gate)(next(weights), q, q + 1)
            _rotate(circuit, weights, GENERAL, (q, q + 1))

    return layer


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

    counts = [sum(map(len, levels))]
    return layers_circuit(layer, counts, num_qubits, name="tree_tensor", encoding=encoding, encoding_gate=encoding_gate)


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
    x = _inputs(encoding, n)
    whole = QuantumCircuit(n, name=circuit.name)
    whole.compose(_encoding(encoding, x, n, gate), inplace=True)
    whole.compose(circuit, inplace=True)
    return _encoded(whole, encoding, x, weights)


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
    x, circuit = _inputs("iqp", num_qubits), QuantumCircuit(num_qubits, name="iqp")
    for _ in range(depth):
        circuit.compose(_encoding("iqp", x, num_qubits), inplace=True)
    return Ansatz(circuit, x)


def amplitude_circuit(num_qubits: int = 4) -> Ansatz:
    """An encoding of real vectors as amplitudes: amplitude k of outcome k is input k, over the norm of the row.

    Its 2**n - 1 RY and 2**n - 2 CNOTs (uniformly controlled rotations: Mottonen et al. 2005, quant-ph/0407010) run on
    every engine; their angles are a torch function of the row, :func:`amplitude_angles`.

    Args:
        num_qubits: number of qubits n, 1 to 10. Default: 4.

    Returns:
        An ansatz with 2**n inputs, of any norm, and no weights. A row of zeros gives outcome 0.

    Raises:
        ValueError: if ``num_qubits`` is out of range.
    """
    check_size(num_qubits)
    x = _inputs("amplitude", num_qubits)
    return _encoded(_amplitude_preparation(num_qubits, x), "amplitude", x, [])


def _amplitude_preparation(num_qubits: int, x: Sequence[Any]) -> QuantumCircuit:
    """RY of each qubit, from the highest down, controlled by all values of those above, by Gray codes."""
    if num_qubits > MAX_AMPLITUDE_QUBITS:
        raise ValueError(
            f"Invalid num_qubits: {num_qubits}; amplitudes need 2**{num_qubits} - 1 rotations, so that at most "
            f"{MAX_AMPLITUDE_QUBITS} are taken; on the simulator a state needs none: layer(inputs, state=state)"
        )
    circuit, angles = QuantumCircuit(num_qubits, name="amplitude"), iter(x)
    for level in range(num_qubits):
        target = num_qubits - 1 - level
        for step in range(2**level):
            circuit.ry(next(angles), target)
            if level:  # the bit in which the next Gray code differs; the last differs from the first in the highest
                bit = min(((step + 1) & -(step + 1)).bit_length() - 1, level - 1)
                circuit.cx(target + 1 + bit, target)
    return circuit


def amplitude_angles(rows: Tensor) -> Tensor:
    """The angles of :func:`amplitude_circuit`.

    Args:
        rows: (B, 2**n), real, of any norm.

    Returns:
        (B, 2**n - 1), differentiable; where a part of a row is 0, its gradient is 0.
    """
    num_qubits, angles = (rows.shape[-1] - 1).bit_length(), []
    for level in range(num_qubits):
        halves = rows.reshape(len(rows), 2**level, 2, -1)
        if level < num_qubits - 1:  # the norm of each half; only the last angle takes signs
            halves = halves.square().sum(-1, keepdim=True)
            halves = torch.where(halves > 0, torch.where(halves > 0, halves, 1.0).sqrt(), 0.0)
        zero, one = halves[..., 0].unbind(-1)
        empty = (zero == 0) & (one == 0)
        angle = torch.where(empty, 0.0, 2 * torch.atan2(one, torch.where(empty, 1.0, zero)))
        codes = torch.arange(2**level, device=rows.device)
        common = codes[:, None] & (codes ^ (codes >> 1))
        odd = sum(((common >> bit) & 1 for bit in range(level)), torch.zeros_like(common)) % 2
        angles.append(angle @ (1 - 2 * odd).to(rows.dtype) / 2**level)
    return torch.cat(angles, -1)


def _kind(kind: Literal["iqp", "zz", "pauli"]) -> Callable[..., Ansatz]:
    def make(num_qubits: int = 4, depth: int = 2, entanglement: str = "full") -> Ansatz:
        return feature_map_circuit(num_qubits, depth, kind, entanglement)

    return make


#: Circuits by name.
CIRCUITS: dict[str, Callable[..., Ansatz]] = {
    "superposition": superposition_circuit,
    "layered": layered_circuit,
    "score": score_circuit,
    "ring": with_layers(ring_layer),
    "brick": with_layers(brick_layer),
    "all_to_all": with_layers(all_to_all_layer),
    "strongly_entangling": with_layers(strongly_entangling_layer, "rx"),
    "su4_brick": with_layers(su4_brick_layer, least=2),
    "su4_staircase": with_layers(su4_staircase_layer, least=2),
    "tree_tensor": tree_tensor_circuit,
    "real_amplitudes": real_amplitudes_circuit,
    "efficient_su2": efficient_su2_circuit,
    "amplitude": amplitude_circuit,
    "iqp": _kind("iqp"),
    "zz_feature_map": _kind("zz"),
    "pauli_feature_map": _kind("pauli"),
}
