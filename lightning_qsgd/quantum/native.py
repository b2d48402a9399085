"""The simulator's engine on CPUs, compiled by numba; the torch engine is its reference.

Shapes: B rows, n qubits, P parameters (inputs, weights and what is not linear in them), A angles of the program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import pi
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_qsgd.quantum import native_row, native_rows
from lightning_qsgd.quantum.basis import IGNORED, Angle, Gate
from lightning_qsgd.quantum.lanes import LANES
from lightning_qsgd.quantum.normal_form import NormalForm
from lightning_qsgd.quantum.stages import HALF_TURN, QUARTERS, ROOTS, Form, mixed_states


@dataclass
class _Real:
    """A rotation or a reflection by ``form`` of the pairs (i, i XOR d); the qubit is the parity of i AND m."""

    d: int
    m: int
    reflection: bool
    form: Form


@dataclass
class _RX:
    """exp(-i form X) on the pairs (i, i XOR d)."""

    d: int
    m: int
    form: Form


@dataclass
class _Phases:
    """exp(-i form (-1)**(parity of i AND m)) for each m."""

    forms: dict[int, Form] = field(default_factory=dict)


_Operation = _Real | _RX | _Phases


def _odd(number: int) -> bool:
    return number.bit_count() % 2 == 1


class Program:
    """A circuit as operations on amplitudes that are never moved.

    CX and SWAP permute basis states by maps that are linear over GF(2). So the amplitude of the logical state k lies at
    the XOR of ``d[q]`` over the ones q of k, and qubit q of physical place i is the parity of i AND ``m[q]``.

    Args:
        form: the circuit, without resets.
        by_row: whether weights differ from row to row.

    Attributes:
        forms: (A, 1 + P) float64, of the angles; the first n are of the product state at the beginning.
        ops: (operations, 7) int64 for the native_rows.
        terms: (terms, 2) int64: angle and m of each phase.
        signs: (operations, 2) 1 for rotations, -1 for reflections.
        places: (2**n,) where the kernels leave the amplitude of each outcome, or None: where it belongs.
        parts: 1 if all amplitudes are real, else 2.
    """

    def __init__(self, form: NormalForm, by_row: bool) -> None:
        self.num_qubits = n = form.num_qubits
        self._d, self._m = [1 << q for q in range(n)], [1 << q for q in range(n)]
        self._operations: list[_Operation] = []
        for gate in form.gates:
            if gate.name not in IGNORED:
                self._append(gate, form.form)
        self._drop_last_phases()
        columns = form.angles.num_columns
        forms = self._take_product(form.angles.forms.shape[1])
        ops, terms, signs = [], [], []

        def row(form: Form) -> int:
            forms.append(form)
            return len(forms) - 1

        waiting: _Real | None = None  # for another one on other pairs
        for operation in [*self._operations, None]:
            if waiting is not None:
                if (
                    isinstance(operation, _Real)
                    and not _odd(operation.d & waiting.m)
                    and not _odd(waiting.d & operation.m)
                ):
                    pair = [row(waiting.form), waiting.d, waiting.m, row(operation.form), operation.d, operation.m]
                    ops.append([native_rows.PAIR, *pair])
                    signs.append([1 - 2 * waiting.reflection, 1 - 2 * operation.reflection])
                    waiting = None
                    continue
                ops.append([native_rows.REAL, row(waiting.form), waiting.d, waiting.m, 0, 0, 0])
                signs.append([1 - 2 * waiting.reflection, 1])
                waiting = None
            if isinstance(operation, _Real):
                waiting = operation
            elif isinstance(operation, _RX):
                ops.append([native_rows.RX, row(operation.form), operation.d, operation.m, 0, 0, 0])
                signs.append([1, 1])
            elif operation is not None:

                def moves(item: tuple[int, Form]) -> bool:  # whether the phase differs from row to row
                    return bool(item[1][1 : 1 + columns].any() or (by_row and item[1][1 + columns :].any()))

                items = sorted(operation.forms.items(), key=moves)
                shared = sum(not moves(item) for item in items)
                ops.append([native_rows.PHASES, len(terms), shared, len(items), 0, 0, 0])
                signs.append([1, 1])
                terms += [[row(form), m] for m, form in items]
        self.ops = np.array(ops, np.int64).reshape(-1, 7)
        self.terms = np.array(terms, np.int64).reshape(-1, 2)
        self.signs = np.array(signs, np.float64).reshape(-1, 2)
        self.forms = np.stack(forms)
        self.parts = 2 if (self.ops[:, 0] >= native_rows.RX).any() else 1
        self.places = self._places()

    def _append(self, gate: Gate, form: Callable[[Angle], Form]) -> None:
        name, qubits, angle, _ = gate
        d, m, a, b = self._d, self._m, qubits[0], qubits[-1]
        if name == "cx":
            d[a] ^= d[b]
            m[b] ^= m[a]
        elif name == "swap":
            d[a], d[b], m[a], m[b] = d[b], d[a], m[b], m[a]
        elif name in HALF_TURN:
            reflection, turn = HALF_TURN[name]
            self._add(_Real(d[a], m[a], reflection, form(Angle(turn))))
        elif name == "ry":
            assert angle is not None
            self._add(_Real(d[a], m[a], False, form(angle.scaled(0.5))))
        elif name == "rx" or name in ROOTS:
            self._add(_RX(d[a], m[a], form((angle or Angle(ROOTS[name])).scaled(0.5))))
        elif name == "rz" or name in QUARTERS:
            self._add(_Phases({m[a]: form((angle or Angle(QUARTERS[name] * pi / 4)).scaled(0.5))}))
        elif name == "cz":  # exp(i pi (1 - z_a)(1 - z_b) / 4), up to a global phase
            self._add(
                _Phases({m[a]: form(Angle(pi / 4)), m[b]: form(Angle(pi / 4)), m[a] ^ m[b]: form(Angle(-pi / 4))})
            )
        else:
            raise mixed_states(name)

    def _add(self, new: _Operation) -> None:
        """Fuse with an earlier operation, past those that commute, or insert before them, so that phases meet."""
        for place in range(len(self._operations) - 1, -1, -1):
            before = self._operations[place]
            if isinstance(new, _Phases):
                if isinstance(before, _Phases):
                    for m, form in new.forms.items():
                        before.forms[m] = before.forms[m] + form if m in before.forms else form
                    return
                if any(_odd(before.d & m) for m in new.forms):
                    self._operations.insert(place + 1, new)
                    return
            elif isinstance(before, _Phases):
                if any(_odd(new.d & m) for m in before.forms):
                    self._operations.insert(place + 1, new)
                    return
            elif type(before) is type(new) and (before.d, before.m) == (new.d, new.m):
                if isinstance(new, _Real) and isinstance(before, _Real):
                    before.form = new.form - before.form if new.reflection else new.form + before.form
                    before.reflection = new.reflection != before.reflection
                elif isinstance(new, _RX):
                    before.form = new.form + before.form
                return
            elif _odd(before.d & new.m) or _odd(new.d & before.m):
                self._operations.insert(place + 1, new)
                return
        self._operations.insert(0, new)

    def _drop_last_phases(self) -> None:
        """Drop phases that no later operation turns into anything that is measured, and operations that do nothing."""
        kept: list[_Operation] = []
        for operation in reversed(self._operations):
            if isinstance(operation, _Phases):
                later = [each.d for each in kept if not isinstance(each, _Phases)]
                operation.forms = {
                    m: form
                    for m, form in operation.forms.items()
                    if m and np.abs(form).max() > 1e-12 and any(_odd(d & m) for d in later)
                }
                if operation.forms:
                    kept.append(operation)
            elif np.abs(operation.form).max() > 1e-12 or (isinstance(operation, _Real) and operation.reflection):
                kept.append(operation)
        self._operations = kept[::-1]

    def _take_product(self, size: int) -> list[Form]:
        """The angles of the real product state that comes first; its gates are taken out of the operations."""
        forms = [np.zeros(size) for _ in range(self.num_qubits)]
        kept, touched = [], 0  # places of qubits that something else has touched
        for operation in self._operations:
            if isinstance(operation, _Real):
                q = operation.d.bit_length() - 1
                if operation.d == operation.m == 1 << q and not touched >> q & 1:
                    forms[q] = operation.form  # of |0>, a reflection makes what a rotation does
                    touched |= 1 << q
                    continue
            for m in operation.forms if isinstance(operation, _Phases) else [operation.d | operation.m]:
                touched |= m
            kept.append(operation)
        self._operations = kept
        return forms

    def _places(self) -> Tensor | None:
        places = torch.zeros(1, dtype=torch.int64)
        for d in self._d:
            places = torch.cat([places, places ^ d])
        return None if bool((places == torch.arange(len(places))).all()) else places

    @cached_property
    def constants(self) -> dict[torch.dtype, Any]:
        """Tensors and arrays of each dtype."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "constants"}

    def of(self, dtype: torch.dtype, columns: int) -> tuple[Tensor, Tensor, Tensor, NDArray[Any]]:
        """Constants (A, 1), slopes by inputs (A, columns) and by weights (A, the others), and signs."""
        if dtype not in self.constants:
            forms = torch.from_numpy(self.forms).to(dtype)
            parts = (forms[:, :1], forms[:, 1 : 1 + columns], forms[:, 1 + columns :])
            signs = torch.from_numpy(self.signs).to(dtype).numpy()
            self.constants[dtype] = (*(part.contiguous() for part in parts), signs)
        return self.constants[dtype]


class NativeEngine:
    """Probabilities of a circuit by native kernels, and their first derivatives.

    Args:
        form: the circuit, without resets.
    """

    def __init__(self, form: NormalForm) -> None:
        self._form = form
        self._programs = {False: Program(form, by_row=False)}

    def _program(self, weights: Tensor) -> Program:
        by_row = weights.ndim == 2
        if by_row not in self._programs:
            self._programs[by_row] = Program(self._form, by_row)
        return self._programs[by_row]

    def forward(self, inputs: Tensor, weights: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        """Compute probabilities (B, 2**n), and the final states that :meth:`backward` needs.

        Args:
            inputs: (B, I), float32 or float64, on the CPU; B is at least 1.
            weights: (W,) or (B, W), same dtype.
            keep: whether :meth:`backward` will be called.
        """
        program, rows, cos, sin, signs = self._prepared(inputs, weights)
        n, batch, size = program.num_qubits, len(inputs), 1 << program.num_qubits
        count, width = cos.shape[1], program.parts * size
        if rows:
            states = np.empty((count // LANES if keep else 0, width * LANES), cos.dtype)
            out = np.empty((size, count), cos.dtype)
            table = native_rows.tables(cos, sin, program.terms, program.ops, size)
            native_rows.forward_rows(cos, sin, n, program.ops, program.terms, signs, table, states, keep, out)
        else:
            states, out = np.empty((batch if keep else 0, width), cos.dtype), np.empty((batch, size), cos.dtype)
            native_row.forward_row(cos, sin, n, program.ops, program.terms, signs, states, keep, out)
        found = torch.from_numpy(out)
        if program.places is not None:
            found = found.index_select(0 if rows else 1, program.places)
        return (found.T[:batch] if rows else found), torch.from_numpy(states)

    def backward(self, states: Tensor, grad: Tensor, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the derivatives by inputs and weights of the sum of ``grad`` (B, 2**n) times the probabilities."""
        program, rows, cos, sin, signs = self._prepared(inputs, weights)
        n, size = program.num_qubits, 1 << program.num_qubits
        _, by_input, by_weight, _ = program.of(inputs.dtype, inputs.shape[1])
        by_angle = np.zeros_like(cos)
        given = _padded(grad, cos.shape[1]).T if rows else grad
        if program.places is not None:
            given = grad.new_empty(given.shape).index_copy_(0 if rows else 1, program.places, given)
        given = given.contiguous().numpy()
        if rows:
            table = native_rows.tables(cos, sin, program.terms, program.ops, size)
            by_amplitude = np.zeros((len(table), size * LANES), cos.dtype)
            native_rows.backward_rows(
                cos, sin, n, program.ops, program.terms, signs, table, states.numpy(), given, by_angle, by_amplitude
            )
            native_rows.slopes_of_tables(by_amplitude, program.ops, program.terms, by_angle)
        else:
            native_row.backward_row(cos, sin, n, program.ops, program.terms, signs, states.numpy(), given, by_angle)
        found = torch.from_numpy(by_angle)[:, : len(inputs)]
        by_weights = found.T @ by_weight if weights.ndim == 2 else found.sum(1) @ by_weight
        return found.T @ by_input, by_weights

    def _prepared(self, inputs: Tensor, weights: Tensor) -> tuple[Program, bool, Any, Any, Any]:
        """The program, whether rows are lanes, cos and sin of the angles (A, B or padded B), and signs."""
        program = self._program(weights)
        constant, by_input, by_weight, signs = program.of(inputs.dtype, inputs.shape[1])
        rows = _rows_are_lanes(program.num_qubits, len(inputs))
        count = -(-len(inputs) // LANES) * LANES if rows else len(inputs)
        if weights.ndim == 2:
            constant = torch.addmm(constant, by_weight, _padded(weights, count).T)
        elif by_weight.shape[1]:
            constant = torch.addmv(constant[:, 0], by_weight, weights)[:, None]
        angles = torch.addmm(constant, by_input, _padded(inputs, count).T)
        return program, rows, angles.cos().numpy(), angles.sin().numpy(), signs


def _rows_are_lanes(n: int, batch: int) -> bool:
    return n < 4 or batch >= LANES // 2


def _padded(rows: Tensor, count: int) -> Tensor:
    return rows if len(rows) == count else torch.cat([rows, rows.new_zeros(count - len(rows), rows.shape[1])])
