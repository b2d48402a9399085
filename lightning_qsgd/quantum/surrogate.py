"""FourierSurrogate: a network's outcome probabilities as a trigonometric polynomial in its inputs.

A circuit whose inputs enter through Pauli rotations with integer coefficients has probabilities that are trigonometric
polynomials (Schuld, Sweke, Meyer 2021, arXiv 2008.08605); one batch on a grid determines them (Schreiber, Eisert,
Meyer 2023, arXiv 2206.11740). Afterwards the circuit's response is evaluated in torch.

Shapes: B batch, n inputs, K_q = 1 + 2 * degree_q nodes of input q, O outputs (outcomes, or projections of them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike
from torch import Tensor

if TYPE_CHECKING:
    from lightning_qsgd.quantum.circuits import Ansatz
    from lightning_qsgd.quantum.network import QuantumNetwork

MAX_GRID = 20_000
_CHUNK = 4096  # rows of inputs evaluated at once: bounds memory


class FourierSurrogate:
    """Trigonometric series of a network, evaluated in torch on the device and in the dtype of its inputs.

    Args:
        coefficients: (K_1, ..., K_n, O), float64: the series in the basis 1, cos x, sin x, cos 2x, sin 2x, ... of each
            input.
        shots: shots per grid point behind the coefficients; 0: exact. Default: 0.

    An exact network is reproduced to 1e-12. From S shots a point the series is unbiased and as noisy as one S-shot
    circuit, but its error is frozen: values may lie slightly below 0 or above 1. They are returned as they are.
    """

    def __init__(self, coefficients: Tensor, shots: int = 0) -> None:
        self.coefficients = coefficients.to(torch.float64)
        self.shots = shots
        self._cache: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @classmethod
    def fit(cls, network: QuantumNetwork, weights: ArrayLike | None = None) -> FourierSurrogate:
        """Run the network on the grid, in one batched call, and solve for the coefficients.

        Args:
            network: the network; its noise must not depend on the inputs (see the docs on calibration).
            weights: (num_weights,), radians, held fixed; None only where the ansatz has none.

        Raises:
            ValueError: if an input enters otherwise than through a Pauli rotation with an integer coefficient, or the
                grid has more than 20,000 points (run the circuit itself then: mode="live").
        """
        shape = grid_shape(network.ansatz)
        grid = torch.cartesian_prod(*map(_nodes, shape)).reshape(-1, len(shape))
        coefficients = torch.from_numpy(network.probabilities(grid, weights)).reshape(*shape, -1)
        for axis, size in enumerate(shape):
            inverse = torch.linalg.inv(_basis(_nodes(size), size))
            coefficients = _apply(inverse, coefficients, axis)
        return cls(coefficients.contiguous(), network.qnn.shots or 0)

    @property
    def num_inputs(self) -> int:
        """Number of inputs n."""
        return self.coefficients.ndim - 1

    @property
    def num_points(self) -> int:
        """Number of grid points, which is the number of circuits a fit runs."""
        return math.prod(self.coefficients.shape[:-1])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Evaluate the series.

        Args:
            inputs: (B, n), float32 or float64, radians.

        Returns:
            (B, O), in the dtype and on the device of ``inputs``; differentiable.

        Raises:
            ValueError: for a wrong shape.
        """
        self._check(inputs)
        key = (inputs.dtype, inputs.device)
        if key not in self._cache:
            with torch.inference_mode(False):  # what is kept must serve autograd later
                self._cache[key] = self.coefficients.to(inputs, copy=True)
        if len(inputs) <= _CHUNK:
            return _contract(inputs, self._cache[key], _basis)
        return torch.cat([_contract(chunk, self._cache[key], _basis) for chunk in inputs.split(_CHUNK)])

    def variance(self, inputs: Tensor) -> Tensor:
        """Predicted variance of the outputs at ``inputs`` (B, n) from the shots behind the fit; 0 where exact.

        The value at x is a sum of the grid's frequencies with weights w(x), so its variance is the sum of
        w(x)^2 p (1 - p) / shots, with the unbiased p (1 - p) / (shots - 1) of the measured frequencies. Only for
        surrogates of probabilities, not for projected ones.

        Returns:
            (B, O), in the dtype of ``inputs``.
        """
        self._check(inputs)
        if not self.shots:
            return inputs.new_zeros(len(inputs), self.coefficients.shape[-1])
        values = self.coefficients
        for axis, size in enumerate(self.coefficients.shape[:-1]):  # back to the frequencies on the grid
            values = _apply(_basis(_nodes(size), size), values, axis)
        variance = values * (1 - values) / max(self.shots - 1, 1)
        return _contract(inputs, variance.clamp(min=0).to(inputs), _squared_weights)

    def project(self, matrix: Tensor) -> FourierSurrogate:
        """The surrogate of ``outputs @ matrix``; matrix is (O, new O)."""
        return FourierSurrogate(self.coefficients @ matrix.to(self.coefficients), self.shots)

    def _check(self, inputs: Tensor) -> None:
        if inputs.ndim != 2 or inputs.shape[1] != self.num_inputs:
            raise ValueError(f"Invalid inputs: shape {tuple(inputs.shape)}; it must be (B, {self.num_inputs})")


def input_degrees(ansatz: Ansatz) -> list[int]:
    """Highest frequency of each input: the sum of |coefficient| over the gates that it enters.

    Raises:
        ValueError: for a gate without a Fourier series of integer frequencies, or a coefficient that is no integer.
    """
    from lightning_qsgd.quantum.circuits import ROTATIONS, linear_angle

    degrees = [0] * ansatz.num_inputs
    for instruction in ansatz.circuit.data:
        for angle in instruction.operation.params:
            constants = getattr(angle, "parameters", ())
            used = [i for i, parameter in enumerate(ansatz.inputs) if parameter in constants]
            if not used:
                continue
            name = instruction.operation.name
            if name not in ROTATIONS:
                raise ValueError(
                    f"An input enters gate {name!r}, which has no series of integer frequencies; "
                    f"encode inputs in {', '.join(ROTATIONS)}, or use mode='live'"
                )
            coefficients = linear_angle(angle)[1]
            for i in used:
                coefficient = coefficients[ansatz.inputs[i]]
                if coefficient != round(coefficient):
                    raise ValueError(
                        f"Input {ansatz.inputs[i].name} enters {name!r} with coefficient {coefficient}; "
                        "only integers have a Fourier series of period 2 pi"
                    )
                degrees[i] += abs(round(coefficient))
    return degrees


def grid_shape(ansatz: Ansatz) -> tuple[int, ...]:
    """Grid points per input, 1 + 2 * degree: as many as there are coefficients.

    Raises:
        ValueError: as :func:`input_degrees`, or for more than 20,000 points in all.
    """
    shape = tuple(1 + 2 * degree for degree in input_degrees(ansatz))
    if (points := math.prod(shape)) > MAX_GRID:
        raise ValueError(
            f"The surrogate of this circuit needs {points:,} grid points, more than {MAX_GRID:,}; "
            "use fewer qubits or layers, or run the circuit in each step (mode='live')"
        )
    return shape


def _nodes(size: int) -> Tensor:
    return 2 * torch.pi * torch.arange(size, dtype=torch.float64) / size


def _apply(matrix: Tensor, values: Tensor, axis: int) -> Tensor:  # the matrix to one axis, which is not the last
    return (matrix @ values.movedim(axis, -2)).movedim(-2, axis)


def _basis(x: Tensor, size: int) -> Tensor:  # (...) -> (..., size): 1, cos x, sin x, cos 2x, sin 2x, ...
    order, shift = _waves(size, x.dtype, x.device)
    return (x.unsqueeze(-1) * order - shift).cos()  # sin a = cos(a - pi / 2)


@lru_cache
@torch.inference_mode(False)  # what is kept must serve autograd later
def _waves(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    index = torch.arange(size, device=device)
    shift = torch.where((index > 0) & (index % 2 == 0), torch.pi / 2, 0.0)
    return ((index + 1) // 2).to(dtype), shift.to(dtype)


def _squared_weights(x: Tensor, size: int) -> Tensor:  # squared interpolation weights of the nodes (Dirichlet kernel)
    distance = x.unsqueeze(-1) - _nodes(size).to(x)
    harmonics = torch.arange(1, size // 2 + 1, dtype=x.dtype, device=x.device)
    return ((1 + 2 * (distance.unsqueeze(-1) * harmonics).cos().sum(-1)) / size) ** 2


def _contract(inputs: Tensor, coefficients: Tensor, basis: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Sum over every axis but the last, weighted by the waves of one input each: (B, n) -> (B, O).

    One matrix product takes the first half of the inputs, a batched one the others.
    """
    *sizes, outputs = coefficients.shape
    if len(set(sizes)) == 1:
        waves = basis(inputs, sizes[0]).unbind(1)
    else:
        waves = [basis(inputs[:, q], size) for q, size in enumerate(sizes)]
    middle = (len(sizes) + 1) // 2
    first = _outer(waves[:middle])  # (B, K_1 ... K_middle)
    out = first @ coefficients.reshape(first.shape[1], -1)
    if middle == len(sizes):
        return out
    rest = _outer(waves[middle:])
    return torch.bmm(rest.unsqueeze(1), out.view(len(inputs), rest.shape[1], outputs)).squeeze(1)


def _outer(vectors: Sequence[Tensor]) -> Tensor:  # each (B, K) -> (B, product of K)
    out = vectors[0]
    for vector in vectors[1:]:
        out = (out.unsqueeze(-1) * vector.unsqueeze(1)).flatten(1)
    return out
