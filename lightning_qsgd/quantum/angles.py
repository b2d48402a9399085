# pyright: reportInvalidTypeForm=false, reportAttributeAccessIssue=false
# (Qiskit's Parameter and ParameterExpression come from a compiled module without types.)
"""Angles of gates as functions of inputs and weights: linear forms, and other expressions compiled to torch.

Shapes: B rows of D data, I parameters that take data, W weights; D is I without an encoding. R expressions are not
linear and depend on inputs; S are not linear and depend on weights alone. A *form* is a constant, then coefficients of
the I inputs, R expressions, W weights and S expressions.
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
    """Split the angle of a gate into ``constant + sum(coefficient * parameter)``.

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


class Encoding(NamedTuple):
    """How data become the parameters of a circuit that take data.

    Attributes:
        function: maps (B, D) to (B, I), row by row; differentiable.
        num_inputs: D.
    """

    function: Callable[[Tensor], Tensor]
    num_inputs: int

    @property
    def name(self) -> str:
        """The function's name with its module."""
        return f"{self.function.__module__}.{getattr(self.function, '__qualname__', type(self.function).__name__)}"


class Angles:
    """The angles of a circuit as linear forms, with torch functions for the expressions that are not linear.

    Args:
        inputs: parameters that take data.
        weights: the other parameters.
        expressions: one for each angle.
        encoding: a function that computes the parameters that take data from the data. Default: they are the data.

    Attributes:
        forms: (angles, 1 + I + R + W + S) float64.
        num_columns: I + R, the length of the rows that :meth:`extend` returns.

    Raises:
        ValueError: if an expression has an unknown parameter, is complex, or has a function that torch lacks.
    """

    def __init__(
        self,
        inputs: Sequence[Parameter],
        weights: Sequence[Parameter],
        expressions: Sequence[ParameterExpression],
        encoding: Encoding | None = None,
    ) -> None:
        self.inputs, self.weights, self.encoding = tuple(inputs), tuple(weights), encoding
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
        self._row_functions = [compiled(each, [*self.inputs, *self.weights]) for each in rows]
        self._shared_functions = [compiled(each, self.weights) for each in shared]
        self.num_columns = len(self.inputs) + len(rows)
        self._keys = [*self.inputs, *self.rows, *self.weights, *self.shared]
        place = {key: 1 + k for k, key in enumerate(self._keys)}
        self.forms = np.zeros((len(linear), 1 + len(self._keys)))
        for form, (constant, coefficients) in zip(self.forms, linear, strict=True):
            form[0] = constant
            for key, coefficient in coefficients.items():
                form[place[key]] = coefficient

    @property
    def is_linear(self) -> bool:
        """Whether all angles are linear in inputs and weights, so that :meth:`extend` changes nothing."""
        return not self.rows and not self.shared and self.encoding is None

    @property
    def num_data(self) -> int:
        """D, the length of a row of data."""
        return len(self.inputs) if self.encoding is None else self.encoding.num_inputs

    def encoded(self, data: Tensor) -> Tensor:
        """The parameters that take data, (B, I), from data (B, D).

        Raises:
            ValueError: if the encoding's function returns another shape.
        """
        if self.encoding is None:
            return data
        encoded = self.encoding.function(data)
        if encoded.shape != (len(data), len(self.inputs)):
            raise ValueError(
                f"Invalid encoding: {self.encoding.name} returned {tuple(encoded.shape)} for inputs "
                f"{tuple(data.shape)}; it must return an angle for each of the circuit's {len(self.inputs)} inputs"
            )
        return encoded

    def extend(self, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Encode data, and append the angles that are not linear, so that all forms are linear in the result.

        Args:
            inputs: (B, D).
            weights: (W,) or (B, W).

        Returns:
            (B, I + R), and (W + S,) or (B, W + S); differentiable.
        """
        inputs, shared = self.encoded(inputs), weights.unbind(-1)
        if self.rows:
            parameters = *inputs.unbind(-1), *shared
            values = [function(*parameters).expand(len(inputs)) for function in self._row_functions]
            inputs = torch.cat([inputs, torch.stack(values, -1)], -1)
        if self.shared:
            values = [function(*shared) for function in self._shared_functions]
            weights = torch.cat([weights, torch.stack(values, -1)], -1)
        return inputs, weights

    def values(self, inputs: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """All angles at inputs (B, D) and weights (W,): (B, angles)."""
        by_rows, by_shared = self._slopes()
        rows, shared = (values.numpy() for values in self.extend(torch.tensor(inputs), torch.tensor(weights)))
        return self.forms[:, 0] + rows @ by_rows.T + shared @ by_shared.T

    def jacobian(
        self, inputs: NDArray[np.float64], weights: NDArray[np.float64], angles: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Derivatives of some angles by inputs and weights: (B or 1, angles, D) and (B or 1, angles, W)."""
        by_rows, by_shared = (slopes[angles] for slopes in self._slopes())
        if self.is_linear:
            return by_rows[None], by_shared[None]

        def one(row: Tensor, w: Tensor) -> Tensor:
            row, w = self.extend(row[None], w)
            return torch.from_numpy(by_rows) @ row[0] + torch.from_numpy(by_shared) @ w

        jacobian = torch.func.vmap(torch.func.jacrev(one, argnums=(0, 1)), in_dims=(0, None))
        by_inputs, by_weights = jacobian(torch.tensor(inputs), torch.tensor(weights))
        return by_inputs.numpy(), by_weights.numpy()

    @cached_property
    def depends(self) -> NDArray[np.bool_]:
        """(angles, D + W): whether an angle depends on an input or weight."""
        named = [*self.inputs, *self.weights]
        holds = np.array([[p in key.parameters for p in named] for key in self._keys], bool)
        depends = (self.forms[:, 1:] != 0) @ holds.reshape(len(self._keys), len(named))
        if self.encoding is None:
            return depends
        by_data, by_weights = np.split(depends, [len(self.inputs)], axis=1)
        return np.hstack([np.repeat(by_data.any(1, keepdims=True), self.num_data, 1), by_weights])

    def _slopes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients of extended rows (angles, I + R) and of extended weights (angles, W + S)."""
        return self.forms[:, 1 : 1 + self.num_columns], self.forms[:, 1 + self.num_columns :]


def check_inputs(inputs: Tensor, num_inputs: int, *, rows_only: bool = True) -> None:
    """Check that inputs are floating point and (B, num_inputs), or (..., num_inputs) if not ``rows_only``.

    Raises:
        ValueError: if they are not.
    """
    if not inputs.is_floating_point() or inputs.shape[-1:] != (num_inputs,) or (rows_only and inputs.ndim != 2):
        raise ValueError(
            f"Invalid inputs: {inputs.dtype} of shape {tuple(inputs.shape)}; they must be floating point, "
            f"({'B' if rows_only else '...'}, {num_inputs})"
        )


class _Value(NamedTuple):
    """The value of parameter number ``place``."""

    place: int


class CompiledExpression(NamedTuple):
    """An expression as a torch function of one tensor for each parameter.

    Attributes:
        steps: (operation, left, right) in order. Operands are numbers, :class:`_Value`, or None for the top of the
            stack.
    """

    steps: tuple[tuple[str, Any, Any], ...]

    def __call__(self, *values: Tensor) -> Tensor:
        """The expression's value; differentiable."""
        stack: list[Any] = []

        def take(operand: Any) -> Any:
            return stack.pop() if operand is None else values[operand.place] if isinstance(operand, _Value) else operand

        for name, left, right in self.steps:
            if name in _FUNCTIONS:
                stack.append(_FUNCTIONS[name](take(left)))
            else:
                second = take(right)  # on top of the stack
                stack.append(_OPERATORS[name](take(left), second))
        (result,) = stack
        return result


def compiled(expression: ParameterExpression, parameters: Sequence[Parameter]) -> CompiledExpression:
    """Qiskit's expression as a torch function of the parameters, in this order.

    It is read from the sequence of stack operations that QPY writes. (Qiskit 2.6.2's public way, ``sympify``, returns
    ``NotImplemented`` for a number to the power of a parameter.)

    Raises:
        ValueError: if the expression is complex, or has a function that torch lacks.
    """
    parameters, steps = list(parameters), []
    for step in expression._qpy_replay:
        name, operands = str(step.op).rpartition(".")[2], (step.lhs, step.rhs)
        if name not in _FUNCTIONS and name not in _OPERATORS:
            raise ValueError(f"Angle {expression} has the operation {name}, which angles cannot have here")
        if any(isinstance(operand, complex) for operand in operands):
            raise ValueError(f"Angle {expression} has complex numbers, which angles cannot have here; write it without")
        steps.append((name, *(_Value(parameters.index(o)) if hasattr(o, "parameters") else o for o in operands)))
    return CompiledExpression(tuple(steps))
