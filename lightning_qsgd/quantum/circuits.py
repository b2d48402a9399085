# pyright: reportInvalidTypeForm=false, reportAttributeAccessIssue=false
# (Qiskit's Parameter and ParameterExpression come from a compiled module without types.)
"""Ansatz, a parametrised circuit with named inputs and weights; and this package's circuits.

Paper: arXiv 2511.01918, Eq. 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterVector
from torch import Tensor

from lightning_qsgd.quantum.angles import Angles, Encoding
from lightning_qsgd.quantum.basis import Gate
from lightning_qsgd.quantum.normal_form import NormalForm

Entanglement = Literal["linear", "none"]


@dataclass(frozen=True)
class Ansatz:
    """A circuit whose parameters are split into inputs and weights.

    Inputs take data; weights are trained or fixed. Together they must name each parameter of the circuit exactly once.
    They are explicit because ``circuit.parameters`` sorts scalar parameters by name (x0, x1, x10, x2). Angles may be
    any real expression of inputs and weights.

    The circuit is decomposed once into a small basis of gates, the ``normal_form``, which every engine runs. A
    ``PauliEvolutionGate`` is thus its synthesis on every engine, whereas Qiskit's ``Statevector`` uses the exact
    exponential.

    Args:
        circuit: any circuit of gates on n qubits. It is copied. Outcome bit k is qubit k (little-endian, as everywhere
            in Qiskit) for all qubits; measurements at the end and classical bits are ignored. If the circuit was
            transpiled, n is the number of its qubits before the last transpile, and they have the order of then.
        inputs: the parameters that take data, in the order of the last axis of input arrays. Default: none.
        weights: the other parameters, in the order of weight arrays. Default: none.
        encode: a torch function that computes ``inputs``, row by row, where Qiskit's expressions do not suffice: it
            maps data (B, D) to angles (B, len(inputs)), differentiably. Give a function of a module, so that the ansatz
            can be pickled. Default: the data are the angles.
        num_inputs: D, only with ``encode``.

    Attributes:
        normal_form: the decomposed circuit.

    Warns:
        UserWarning: if the circuit has only gates of devices, and qubits without a gate: its layout may be lost.

    Raises:
        ValueError: if there is a measurement before the last gate, control flow, a gate without a definition, an angle
            that is not real, or a layout that cannot be undone; or if a parameter is missing, unknown or named twice.
    """

    circuit: QuantumCircuit
    inputs: tuple[Parameter, ...]
    weights: tuple[Parameter, ...] = ()
    encoding: Encoding | None = field(default=None, repr=False)
    normal_form: NormalForm = field(repr=False, kw_only=True)

    def __init__(
        self,
        circuit: QuantumCircuit,
        inputs: Sequence[Parameter] = (),
        weights: Sequence[Parameter] = (),
        *,
        encode: Callable[[Tensor], Tensor] | None = None,
        num_inputs: int | None = None,
    ) -> None:
        if not isinstance(circuit, QuantumCircuit):
            raise ValueError(f"Invalid circuit: {circuit!r} ({type(circuit).__name__}); it must be a QuantumCircuit")
        if not circuit.num_qubits:
            raise ValueError("Invalid circuit: it has no qubits")
        inputs, weights = _named("inputs", inputs), _named("weights", weights)
        named = [*inputs, *weights]
        if len(set(named)) != len(named):
            raise ValueError(f"A parameter is named twice among inputs and weights: {[p.name for p in named]}")
        own = {parameter.name: parameter for parameter in circuit.parameters}
        twins = [p.name for p in named if p.name in own and p != own[p.name]]
        if twins:
            raise ValueError(
                f"Inputs and weights hold another Parameter called {twins[0]!r} than the circuit: two parameters of "
                "one name are different parameters; take them from the circuit, {p.name: p for p in circuit.parameters}"
            )
        unknown = [p.name for p in named if p.name not in own]
        missing = [p.name for p in circuit.parameters if p not in named]
        if unknown or missing:
            raise ValueError(
                f"Inputs and weights must name each circuit parameter once; not in the circuit: {unknown}, "
                f"neither input nor weight: {missing}"
            )
        if (encode is None) != (num_inputs is None) or (num_inputs is not None and num_inputs < 1):
            raise ValueError(
                f"Invalid encode: with num_inputs={num_inputs}; a function that encodes data needs the length of a row "
                "of data: Ansatz(circuit, inputs, weights, encode=function, num_inputs=16)"
            )
        encoding = None if encode is None or num_inputs is None else Encoding(encode, num_inputs)
        circuit = circuit.copy()
        self._set(circuit, inputs, weights, NormalForm.of(circuit, inputs, weights, encoding))

    def _set(
        self, circuit: QuantumCircuit, inputs: Sequence[Parameter], weights: Sequence[Parameter], form: NormalForm
    ) -> None:
        values = {"circuit": circuit, "inputs": inputs, "weights": weights}
        self.__dict__.update(values, encoding=form.angles.encoding, normal_form=form)  # the class is frozen

    def separated(self) -> Ansatz:
        """The same circuit with an input in place of each angle (source) of the normal form, and no weights."""
        angles = tuple(Parameter(f"angle{k:04}") for k in range(len(self.normal_form.sources)))
        return self._of_form(self.normal_form.separated(angles), angles)

    def by_row(self) -> Ansatz:
        """The same circuit whose weights are inputs, after its own."""
        inputs = (*self.inputs, *self.weights)
        expressions = [source.expression for source in self.normal_form.sources]
        encoding = self.encoding and Encoding(_ByRow(self.encoding), self.num_inputs + self.num_weights)
        return self._of_form(replace(self.normal_form, angles=Angles(inputs, (), expressions, encoding)), inputs)

    def measuring(self, paulis: Mapping[int, str]) -> Ansatz:
        """The same circuit with a change of basis at its end, so that Z of each qubit named is its "X" or "Y"."""
        change = {"X": ("h",), "Y": ("sdg", "h"), "Z": ()}
        gates = tuple(Gate(name, (qubit,)) for qubit, pauli in paulis.items() for name in change[pauli])
        if not gates:
            return self
        form = replace(self.normal_form, gates=(*self.normal_form.gates, *gates))
        return self._of_form(form, self.inputs, self.weights)

    @staticmethod
    def _of_form(form: NormalForm, inputs: tuple[Parameter, ...], weights: tuple[Parameter, ...] = ()) -> Ansatz:
        ansatz = object.__new__(Ansatz)
        ansatz._set(form.circuit(), inputs, weights, form)
        return ansatz

    @property
    def num_qubits(self) -> int:
        """Number of qubits n; there are 2**n outcomes."""
        return self.normal_form.num_bits

    @property
    def num_inputs(self) -> int:
        """Length of a row of data; may be 0."""
        return self.normal_form.angles.num_data

    @property
    def num_weights(self) -> int:
        """Number of weights; may be 0."""
        return len(self.weights)


class _ByRow:
    """The encoding of rows of data with their weights behind them."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding

    def __call__(self, rows: Tensor) -> Tensor:
        data, weights = rows.tensor_split([self.encoding.num_inputs], -1)
        return torch.cat([self.encoding.function(data), weights], -1)


def _named(name: str, parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    if isinstance(parameters, (Parameter, str, set, frozenset, dict)) or not hasattr(parameters, "__iter__"):
        raise ValueError(
            f"Invalid {name}: {parameters!r} ({type(parameters).__name__}); they must be a list of parameters, in the "
            "order of the arrays"
        )
    parameters = tuple(parameters)
    if strange := [p for p in parameters if not isinstance(p, Parameter)]:
        raise ValueError(
            f"Invalid {name}: {strange[0]!r} ({type(strange[0]).__name__}) among them; take the Parameter itself from "
            "the circuit, {p.name: p for p in circuit.parameters}"
        )
    return parameters


def check_size(num_qubits: int, depth: int = 1, least: int = 1) -> None:
    """Refuse sizes that no circuit has.

    Raises:
        ValueError: if ``num_qubits`` is below ``least`` or ``depth`` below 1.
    """
    if num_qubits < least:
        raise ValueError(f"Invalid num_qubits: {num_qubits}; it must be at least {least}")
    if depth < 1:
        raise ValueError(f"Invalid depth: {depth}; it must be at least 1")


def superposition_circuit(num_qubits: int = 4, depth: int = 2, entanglement: Entanglement = "linear") -> Ansatz:
    """The paper's circuit (Eq. 5): in each layer H, Ry(x + theta) and Rz(phi) on every qubit, then CNOTs 0->1->2->...

    Args:
        num_qubits: number of qubits n and of inputs, at least 1. Default: 4.
        depth: number of layers, at least 1. Default: 2.
        entanglement: "linear" (CNOTs between neighbours) or "none". Default: "linear".

    Returns:
        An :class:`Ansatz` with n inputs, the same in each layer, and (2 * depth - 1) * n weights: first theta, depth x
        n row by row, then phi, (depth - 1) x n. The last layer has no Rz, because it would not change any probability.

    Raises:
        ValueError: if ``num_qubits`` or ``depth`` is below 1, or ``entanglement`` is unknown.
    """
    return _layers("superposition", num_qubits, depth, entanglement, _superpose)


def layered_circuit(
    num_qubits: int = 4,
    depth: int = 2,
    encoding: Literal["angle", "reuploading"] = "reuploading",
    entanglement: Entanglement = "linear",
) -> Ansatz:
    """A circuit for models: in each layer Rx(x), Ry(theta) and Rz(phi) on every qubit, then CNOTs 0->1->2->...

    Args:
        num_qubits: number of qubits n and of inputs, at least 1. Default: 4.
        depth: number of layers, at least 1. Default: 2.
        encoding: "reuploading" encodes the inputs in each layer, which gives probabilities of degree ``depth`` in them
            (Perez-Salinas et al. 2020, arXiv 1907.02085); "angle" only in the first, which gives degree 1. Default:
            "reuploading".
        entanglement: "linear" (CNOTs between neighbours) or "none". Default: "linear".

    Returns:
        An :class:`Ansatz` with n inputs and (2 * depth - 1) * n weights: first theta, depth x n row by row, then phi,
        (depth - 1) x n. The last layer has no Rz, because it would not change any probability.

    Raises:
        ValueError: if ``num_qubits`` or ``depth`` is below 1, or ``encoding`` or ``entanglement`` is unknown.
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
    """The paper's circuit with one input, an attention score, in every Ry (Eq. 4 and 5).

    The paper does not say how the score enters; encoding it in every Ry is this package's choice. Outcome probabilities
    are trigonometric polynomials of degree depth * num_qubits in it.

    Args:
        num_qubits: number of qubits n, at least 1. Default: 4.
        depth: number of layers, at least 1. Default: 2.
        entanglement: "linear" (CNOTs between neighbours) or "none". Default: "linear".
        final_phases: whether the last layer has Rz gates, which change amplitudes, but no probability. Default: False.

    Returns:
        An :class:`Ansatz` with one input and the weights of :func:`superposition_circuit`; with ``final_phases``, phi
        is depth x n.

    Raises:
        ValueError: if ``num_qubits`` or ``depth`` is below 1, or ``entanglement`` is unknown.
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
    """In each layer ``gates(circuit, layer, qubit, x, theta)`` and Rz(phi) on every qubit, then CNOTs.

    Only with ``final_phases`` does the last layer have Rz.
    """
    check_size(num_qubits, depth)
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
