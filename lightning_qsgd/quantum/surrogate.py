"""FourierSurrogate: a network's outcome probabilities as a trigonometric polynomial in its inputs.

If the angles of a circuit are linear in the inputs, with integer frequencies, its probabilities are trigonometric
polynomials (Schuld, Sweke, Meyer 2021, arXiv 2008.08605). One batch on a grid determines them (Schreiber, Eisert, Meyer
2023, arXiv 2206.11740); afterwards they are evaluated in torch.

Shapes: B batch, n inputs, K_q = 1 + 2 * degree_q nodes of input q, O outputs (outcomes, or projections of them).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_qsgd.quantum.angles import check_inputs
from lightning_qsgd.quantum.fourier import (
    PowerSplit,
    coefficients_from,
    contract,
    node_weights,
    nodes,
    split_samples,
    split_uniform,
    values_of,
)
from lightning_qsgd.quantum.torch_engine import Constants

if TYPE_CHECKING:
    from lightning_qsgd.quantum.circuits import Ansatz
    from lightning_qsgd.quantum.network import QuantumNetwork

MAX_GRID = 20_000
CHUNK = 4096  # rows of inputs evaluated at once, and of the grid run at once: bounds memory


class FourierSurrogate(Constants):
    """The outcome probabilities of a network as a trigonometric series in its inputs.

    The series of an exact network has an error of 1e-12. With S shots per grid point it is unbiased and as noisy as one
    circuit with S shots, but its error is the same in each call, and values may be slightly below 0 or above 1. Calling
    the surrogate returns these values; :meth:`probabilities` clips and renormalises them, and :meth:`sample` draws new
    shots from the result.

    Args:
        coefficients: (K_1, ..., K_n, O) float64: the series in the basis 1, cos x, sin x, cos 2x, sin 2x, ... of each
            input.
        shots: shots per grid point behind the coefficients; 0 if they are exact. Default: 0.
    """

    def __init__(self, coefficients: Tensor, shots: int = 0) -> None:
        self.coefficients = coefficients.to(torch.float64)
        self.shots = shots
        self.reset_constants()

    def make_constants(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The coefficients."""
        return self.coefficients.to(device, dtype, copy=True)

    @classmethod
    def fit(cls, network: QuantumNetwork, weights: ArrayLike | None = None) -> FourierSurrogate:
        """Run the network on the grid, in batches of at most 4,096 circuits, and solve for the coefficients.

        Args:
            network: the network. Its noise must not depend on the inputs; a :class:`Calibration` tests this.
            weights: (num_weights,), radians, held fixed. Default: None, only for an ansatz without weights.

        Raises:
            ValueError: if an angle is not linear in an input, a frequency is not an integer, or the grid has more than
                20,000 points.
        """
        shape = check_grid(grid_sizes(network.ansatz))
        values = run_in_chunks(network, grid_points(shape), weights)
        return cls.from_grid(values.reshape(*shape, -1), network.qnn.shots or 0)

    @classmethod
    def from_grid(cls, values: NDArray[np.float64], shots: int = 0) -> FourierSurrogate:
        """The series with the given ``values`` (K_1, ..., K_n, O) on the grid of :func:`grid_points`."""
        return cls(coefficients_from(torch.from_numpy(values)), shots)

    @property
    def num_inputs(self) -> int:
        """Number of inputs n."""
        return self.coefficients.ndim - 1

    @property
    def num_points(self) -> int:
        """Number of grid points, that is of circuits in a fit."""
        return math.prod(self.coefficients.shape[:-1])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Evaluate the series.

        Args:
            inputs: (B, n), float32 or float64, radians.

        Returns:
            (B, O), in the dtype and on the device of ``inputs``; differentiable.

        Raises:
            ValueError: if the shape or dtype is wrong.
        """
        check_inputs(inputs, self.num_inputs)
        coefficients = self.constants(inputs.dtype, inputs.device)
        if len(inputs) <= CHUNK:
            return contract(inputs, coefficients)
        return torch.cat([contract(chunk, coefficients) for chunk in inputs.split(CHUNK)])

    def probabilities(self, inputs: Tensor) -> Tensor:
        """The series, clipped to [0, 1] and renormalised, which biases it slightly: (B, O), rows sum to 1."""
        raw = self(inputs).clamp(0, 1)
        return raw / raw.sum(-1, keepdim=True)

    def clipped_mass(self, inputs: Tensor) -> Tensor:
        """(B,), the negative probability that :meth:`probabilities` clips. It grows as shots decrease; 0 if exact."""
        return -self(inputs).clamp(max=0).sum(-1)

    def sample(self, inputs: Tensor, shots: int, rng: np.random.Generator) -> Tensor:
        """Draw independent shots from the probabilities, as the device would, without its drift.

        Args:
            inputs: (B, n), radians.
            shots: shots per row, at least 1.
            rng: the generator that the shots are drawn from.

        Returns:
            (B, O) frequencies, in the dtype and on the device of ``inputs``.

        Raises:
            ValueError: if ``shots`` is below 1.
        """
        if shots < 1:
            raise ValueError(f"Invalid shots: {shots}; it must be at least 1")
        probabilities = self.probabilities(inputs.detach().double().cpu())
        return torch.from_numpy(rng.multinomial(shots, probabilities.numpy()) / shots).to(inputs)

    def variance(self, inputs: Tensor) -> Tensor:
        """Predict the variance of the outputs due to the shots behind the fit; 0 if exact.

        The value at x is a sum of the grid's frequencies p with weights w(x), so its variance is the sum of
        w(x)^2 p (1 - p) / (shots - 1), which is unbiased. It holds for probabilities, not for projected surrogates.

        Args:
            inputs: (B, n), float32 or float64, radians.

        Returns:
            (B, O), in the dtype of ``inputs``.
        """
        check_inputs(inputs, self.num_inputs)
        if not self.shots:
            return inputs.new_zeros(len(inputs), self.coefficients.shape[-1])
        values = values_of(self.coefficients)
        variance = values * (1 - values) / max(self.shots - 1, 1)
        return contract(inputs, variance.clamp(min=0).to(inputs), lambda x, size: node_weights(x, size) ** 2)

    def split(self, samples: Tensor | None = None) -> PowerSplit:
        """Split each output's power into constant, single-angle and multi-angle shares.

        Args:
            samples: (N, n) angles from the distribution of interest, such as those of a training run. N should be 100
                times the number of terms of the single-angle series. Default: independent uniform angles, exactly.

        Returns:
            A :class:`PowerSplit`.

        Raises:
            ValueError: if N is below 10 times the number of terms.
        """
        if samples is None:
            return split_uniform(self.coefficients)
        return split_samples(self(samples.double()), samples, self.coefficients.shape[:-1])

    def project(self, matrix: Tensor) -> FourierSurrogate:
        """The surrogate of ``outputs @ matrix`` with a matrix (O, new O)."""
        return FourierSurrogate(self.coefficients @ matrix.to(self.coefficients), self.shots)

    def state_dict(self) -> dict[str, Any]:
        """Coefficients and shots, by name."""
        return {"coefficients": self.coefficients, "shots": self.shots}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> FourierSurrogate:
        """Restore a surrogate from its :meth:`state_dict`."""
        return cls(state["coefficients"].cpu(), int(state["shots"]))


def input_degrees(ansatz: Ansatz) -> list[int]:
    """Highest frequency of each input: the sum over its gates of |coefficient| times the highest frequency of the gate.

    Raises:
        ValueError: if a function encodes the inputs, an angle is not linear in an input, or a frequency is not an
            integer.
    """
    form = ansatz.normal_form
    if ansatz.encoding is not None:
        raise ValueError(
            f"The circuit's angles are computed by {ansatz.encoding.name}, so it has no Fourier series in its inputs; "
            "run the circuit in each step (LiveCircuitPerturbation), or as a layer (QuantumLayer)"
        )
    degrees = [0] * ansatz.num_inputs
    for source, slopes, depends in zip(form.sources, form.angles.forms[:, 1:], form.angles.depends, strict=True):
        if not source.frequencies:
            continue
        for i in np.flatnonzero(depends[: ansatz.num_inputs]):
            name = ansatz.inputs[i].name
            bent = [k for k, row in enumerate(form.angles.rows) if slopes[ansatz.num_inputs + k]]
            if any(ansatz.inputs[i] in form.angles.rows[k].parameters for k in bent):
                raise ValueError(
                    f"Angle {source.expression} is not linear in {name}, so the circuit has no Fourier series in it; "
                    "run the circuit in each step (LiveCircuitPerturbation)"
                )
            products = [slopes[i] * frequency for frequency in source.frequencies]
            if any(abs(product - round(product)) > 1e-12 for product in products):
                raise ValueError(
                    f"Input {name} enters a gate by the angle {source.expression}, at frequencies of "
                    f"{', '.join(f'{product:g}' for product in products)}; a Fourier series of period 2 pi needs "
                    "integers: multiply the input by a whole number there, or run the circuit in each step "
                    "(LiveCircuitPerturbation)"
                )
            degrees[i] += abs(round(products[-1]))
    return degrees


def grid_sizes(ansatz: Ansatz) -> tuple[int, ...]:
    """Grid points per input, 1 + 2 * degree, as many as there are coefficients.

    Raises:
        ValueError: like :func:`input_degrees`; also if the ansatz has no inputs.
    """
    if not ansatz.num_inputs:
        raise ValueError("The circuit has no inputs, and a series is a function of inputs; use QuantumLayer")
    return tuple(1 + 2 * degree for degree in input_degrees(ansatz))


def check_grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a grid if it has at most 20,000 points.

    Raises:
        ValueError: if it has more.
    """
    if (points := math.prod(shape)) > MAX_GRID:
        raise ValueError(
            f"The surrogate of this circuit needs {points:,} grid points, more than {MAX_GRID:,}; "
            "use fewer qubits or layers, or run the circuit in each step (LiveCircuitPerturbation)"
        )
    return shape


def grid_points(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The points of a grid, (product of shape, n) radians; the first input varies slowest."""
    return torch.cartesian_prod(*map(nodes, shape)).reshape(-1, len(shape)).numpy()


def run_in_chunks(
    network: QuantumNetwork,
    points: NDArray[np.float64],
    weights: ArrayLike | None,
    size: int = CHUNK,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Probabilities at all points, at most ``size`` circuits at a time, which bounds the memory for shots."""
    probabilities = []
    for start in range(0, len(points), size):
        probabilities.append(network.probabilities(points[start : start + size], weights))
        on_progress(min(start + size, len(points)), len(points))
    return np.concatenate(probabilities)
