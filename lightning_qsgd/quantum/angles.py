# pyright: reportInvalidTypeForm=false, reportAttributeAccessIssue=false
# (Qiskit's Parameter and ParameterExpression come from a compiled module without types.)
"""Angles of gates as functions of inputs and weights: linear forms, and what is not linear, compiled to torch.

Shapes: B rows, I inputs, W weights, R angles that are not linear and depend on inputs, S that depend on weights alone.
A *form* is (constant, coefficient of each input, of each of the R, of each weight, of each of the S).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from qiskit.circuit import Parameter, ParameterExpression

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "SIN": torch.sin,
    "COS": torch.cos,
    "TAN": torch.tan,
    "ASIN": torch.asin,
    "ACOS": torch.acos,
    "ATAN": torch.atan,
    "EXP": torch.exp,
    "LOG": torch.log,
    "ABS": torch.abs,
    "SIGN": lambda x: torch.where(x.isnan(), x, x.sign()),  # torch says 0 of nan
    "CONJ": torch.clone,
}
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "ADD": operator.add,
    "SUB": operator.sub,
    "MUL": operator.mul,
    "DIV": operator.truediv,
    "POW": operator.pow,
    "RSUB": lambda left, right: right - left,
    "RDIV": lambda left, right: right / left,
    "RPOW": lambda left, right: right**left,
}


def linear_angle(angle: ParameterExpression | float) -> tuple[float, dict[Parameter, float]]:
    """Split a gate angle into ``constant + sum(coefficient * parameter)``.

    Raises:
        ValueError: if the angle is not linear in its parameters.
    """
    from qiskit.circuit import ParameterExpression

    if not isinstance(angle, ParameterExpression):
        return float(angle), {}
    coefficients = {}
    for parameter in angle.parameters:
        try:
            slope = angle.gradient(parameter)
        except RuntimeError:  # Qiskit has no derivative of sign
            slope = angle
        if isinstance(slope, ParameterExpression):
            if slope.parameters:
                raise ValueError(f"Angle {angle} is not linear in {parameter.name}; only linear angles are supported")
            slope = slope.numeric()
        if isinstance(slope, complex):
            raise ValueError(f"Angle {angle} has the complex coefficient {slope}; only real ones are supported")
        coefficients[parameter] = float(slope)
    constant = angle.bind(dict.fromkeys(angle.parameters, 0.0)).numeric()
    return float(constant.real), coefficients


class Angles:
    """Forms of expressions of inputs and weights, and the torch functions behind what is not linear in them.

    Args:
        inputs: parameters that take data.
        weights: the others.
        expressions: one for each angle.

    Attributes:
        forms: (angles, 1 + I + R + W + S) float64.
        num_columns: I + R, the length of the rows that :meth:`extend` returns.
    """

    def __init__(
        self, inputs: Sequence[Parameter], weights: Sequence[Parameter], expressions: Sequence[ParameterExpression]
    ) -> None:
        self.inputs, self.weights = tuple(inputs), tuple(weights)
        linear: list[tuple[float, dict[Any, float]]] = []
        rows: dict[Any, int] = {}  # expressions that depend on inputs, and their places
        shared: dict[Any, int] = {}
        data = set(self.inputs)
        for expression in expressions:
            if hidden := set(expression.parameters) - {*self.inputs, *self.weights}:
                raise ValueError(
                    f"An angle in a gate's definition holds {sorted(p.name for p in hidden)}, which the circuit does "
                    "not know: make the gate from a circuit by to_gate(), or name its parameters, Gate(name, qubits, "
                    "[...])"
                )
            try:
                linear.append(linear_angle(expression))
            except ValueError:
                place = rows if data & set(expression.parameters) else shared
                place.setdefault(expression, len(place))
                linear.append((0.0, {expression: 1.0}))
        self.rows, self.shared = tuple(rows), tuple(shared)
        self.num_columns = len(self.inputs) + len(rows)
        keys = [*self.inputs, *self.rows, *self.weights, *self.shared]
        place = {key: 1 + k for k, key in enumerate(keys)}
        self.forms = np.zeros((len(linear), 1 + len(keys)))
        for form, (constant, coefficients) in zip(self.forms, linear, strict=True):
            form[0] = constant
            for key, coefficient in coefficients.items():
                form[place[key]] = coefficient

    @property
    def is_linear(self) -> bool:
        """Whether all angles are linear in inputs and weights, so that :meth:`extend` changes nothing."""
        return not self.rows and not self.shared

    def compile(self) -> None:
        """Compile now what :meth:`extend` will need.

        Raises:
            ValueError: as :func:`compiled`.
        """
        if self.rows:
            _ = self._row_functions
        if self.shared:
            _ = self._shared_functions

    def extend(self, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, I) and weights (W,) or (B, W) with the angles that are not linear in them after them.

        Returns:
            (B, I + R), and (W + S,) or (B, W + S); differentiable. Forms are linear in both.
        """
        if self.rows:
            columns, shared = inputs.unbind(-1), weights.unbind(-1)
            values = [value.expand(len(inputs)) for value in self._row_functions(*columns, *shared)]
            inputs = torch.cat([inputs, torch.stack(values, -1)], -1)
        if self.shared:
            values = self._shared_functions(*weights.unbind(-1))
            weights = torch.cat([weights, torch.stack(values, -1)], -1)
        return inputs, weights

    def values(self, inputs: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """All angles at inputs (B, I) and weights (W,): (B, angles)."""
        rows, shared = self._extended(inputs, weights)
        return self.forms[:, 0] + rows @ self._split()[0].T + shared @ self._split()[1].T

    def jacobian(
        self, inputs: NDArray[np.float64], weights: NDArray[np.float64], angles: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Derivatives of some angles by inputs and weights: (B or 1, angles, I) and (B or 1, angles, W)."""
        by_rows, by_shared = (form[angles] for form in self._split())
        if self.is_linear:
            return by_rows[None], by_shared[None]

        def one(row: Tensor, w: Tensor) -> Tensor:
            row, w = self.extend(row[None], w)
            return torch.from_numpy(by_rows) @ row[0] + torch.from_numpy(by_shared) @ w

        jacobian = torch.func.vmap(torch.func.jacrev(one, argnums=(0, 1)), in_dims=(0, None))
        by_inputs, by_weights = jacobian(torch.from_numpy(inputs), torch.from_numpy(weights))
        return by_inputs.numpy(), by_weights.numpy()

    @cached_property
    def depends(self) -> NDArray[np.bool_]:
        """(angles, I + W): whether an angle depends on an input or weight."""
        keys = [*self.inputs, *self.rows, *self.weights, *self.shared]
        named = [*self.inputs, *self.weights]
        holds = np.array([[p in key.parameters for p in named] for key in keys], bool)
        return (self.forms[:, 1:] != 0) @ holds.reshape(len(keys), len(named))

    def _split(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.forms[:, 1 : 1 + self.num_columns], self.forms[:, 1 + self.num_columns :]

    def _extended(
        self, inputs: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.is_linear:
            return inputs, weights
        rows, shared = self.extend(torch.from_numpy(inputs), torch.from_numpy(weights))
        return rows.numpy(), shared.numpy()

    @cached_property
    def _row_functions(self) -> Callable[..., list[Tensor]]:
        return compiled(self.rows, [*self.inputs, *self.weights])

    @cached_property
    def _shared_functions(self) -> Callable[..., list[Tensor]]:
        return compiled(self.shared, self.weights)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_row_functions", "_shared_functions")}


def compiled(
    expressions: Sequence[ParameterExpression], parameters: Sequence[Parameter]
) -> Callable[..., list[Tensor]]:
    """Qiskit's expressions as one torch function: one tensor for each parameter, in order, to a list of tensors.

    An expression is read as QPY writes it, a sequence of operations on a stack. (Qiskit 2.6.2's public way,
    ``sympify``, returns ``NotImplemented`` for a number to the power of a parameter.)

    Raises:
        ValueError: for an expression that is complex, or of a function that torch does not have.
    """
    programs = [_program(expression, list(parameters)) for expression in expressions]

    def run(*values: Tensor) -> list[Tensor]:
        return [_run(program, values) for program in programs]

    return run


class _Value(NamedTuple):
    """The value of parameter number ``place``."""

    place: int


def _program(expression: ParameterExpression, parameters: list[Parameter]) -> list[tuple[str, Any, Any]]:
    """(operation, left, right) in order: numbers, values, or None for what is on the stack."""
    program = []
    for step in expression._qpy_replay:
        name, operands = str(step.op).rpartition(".")[2], (step.lhs, step.rhs)
        if name not in _FUNCTIONS and name not in _OPERATORS:
            raise ValueError(f"Angle {expression} has the operation {name}, which angles cannot have here")
        if any(isinstance(operand, complex) for operand in operands):
            raise ValueError(f"Angle {expression} has complex numbers, which angles cannot have here; write it without")
        program.append((name, *(_Value(parameters.index(o)) if hasattr(o, "parameters") else o for o in operands)))
    return program


def _run(program: list[tuple[str, Any, Any]], values: Sequence[Tensor]) -> Tensor:
    stack: list[Any] = []

    def take(operand: Any) -> Any:
        return stack.pop() if operand is None else values[operand.place] if isinstance(operand, _Value) else operand

    for name, left, right in program:
        if name in _FUNCTIONS:
            stack.append(_FUNCTIONS[name](take(left)))
        else:
            second = take(right)  # on top of the stack
            stack.append(_OPERATORS[name](take(left), second))
    (result,) = stack
    return result
