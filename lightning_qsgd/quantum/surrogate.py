"""FourierSurrogate: a network's outcome probabilities as a trigonometric polynomial in its inputs.

A circuit whose angles are linear in the inputs, with integer frequencies, has probabilities that are trigonometric
polynomials (Schuld, Sweke, Meyer 2021, arXiv 2008.08605); one batch on a grid determines them (Schreiber, Eisert,
Meyer 2023, arXiv 2206.11740). Afterwards the circuit's response is evaluated in torch.

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

from lightning_qsgd.quantum.fourier import coefficients_from, contract, node_weights, nodes, values_of
from lightning_qsgd.quantum.power import PowerSplit, split_samples, split_uniform

if TYPE_CHECKING:
    from lightning_qsgd.quantum.circuits import Ansatz
    from lightning_qsgd.quantum.network import QuantumNetwork

MAX_GRID = 20_000
CHUNK = 4096  # rows of inputs evaluated at once, and of the grid run at once: bounds memory


class FourierSurrogate:
    """Trigonometric series of a network, evaluated in torch on the device and in the dtype of its inputs.

    Args:
        coefficients: (K_1, ..., K_n, O), float64: the series in the basis 1, cos x, sin x, cos 2x, sin 2x, ... of each
            input.
        shots: shots per grid point behind the coefficients; 0: exact. Default: 0.

    An exact network is reproduced to 1e-12. From S shots a point the series is unbiased and as noisy as one S-shot
    circuit, but its error is frozen: values may lie slightly below 0 or above 1. Calling the surrogate returns them as
    they are; :meth:`probabilities` clips and renormalises them, and :meth:`sample` draws fresh shots from these.
    """

    def __init__(self, coefficients: Tensor, shots: int = 0) -> None:
        self.coefficients = coefficients.to(torch.float64)
        self.shots = shots
        self._cache: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @classmethod
    def fit(cls, network: QuantumNetwork, weights: ArrayLike | None = None) -> FourierSurrogate:
        """Run the network on the grid, in batches of at most 4,096 circuits, and solve for the coefficients.

        Args:
            network: the network; its noise must not depend on the inputs (see the docs on calibration).
            weights: (num_weights,), radians, held fixed; None only where the ansatz has none.

        Raises:
            ValueError: if an angle is not linear in an input, or gives a frequency that is no integer, or the grid has
                more than 20,000 points (run the circuit itself then: LiveCircuitPerturbation).
        """
        shape = grid_shape(network.ansatz)
        values = run_in_chunks(network, grid_points(shape), weights)
        return cls.from_grid(values.reshape(*shape, -1), network.qnn.shots or 0)

    @classmethod
    def from_grid(cls, values: NDArray[np.float64], shots: int = 0) -> FourierSurrogate:
        """The series that takes ``values`` (K_1, ..., K_n, O) on the grid of :func:`grid_points`."""
        return cls(coefficients_from(torch.from_numpy(values)), shots)

    @property
    def num_inputs(self) -> int:
        """Number of inputs n."""
        return self.coefficients.ndim - 1

    @property
    def num_points(self) -> int:
        """Number of grid points, which is the number of circuits a fit runs."""
        return math.prod(self.coefficients.shape[:-1])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Evaluate the series, as it is.

        Args:
            inputs: (B, n), float32 or float64, radians.

        Returns:
            (B, O), in the dtype and on the device of ``inputs``; differentiable.

        Raises:
            ValueError: for a wrong shape or dtype.
        """
        self._check(inputs)
        key = (inputs.dtype, inputs.device)
        if key not in self._cache:
            with torch.inference_mode(False):  # what is kept must serve autograd later
                self._cache[key] = self.coefficients.to(inputs, copy=True)
        if len(inputs) <= CHUNK:
            return contract(inputs, self._cache[key])
        return torch.cat([contract(chunk, self._cache[key]) for chunk in inputs.split(CHUNK)])

    def probabilities(self, inputs: Tensor) -> Tensor:
        """The series clipped to [0, 1] and renormalised: (B, O) rows of a distribution. Slightly biased by that."""
        raw = self(inputs).clamp(0, 1)
        return raw / raw.sum(-1, keepdim=True)

    def clipped_mass(self, inputs: Tensor) -> Tensor:
        """(B,): negative probability that :meth:`probabilities` clips; 0 where exact, grows as shots get fewer."""
        return -self(inputs).clamp(max=0).sum(-1)

    def sample(self, inputs: Tensor, shots: int, rng: np.random.Generator) -> Tensor:
        """Frequencies of ``shots`` fresh, independent shots (multinomial): the device's shot noise without the device.

        Noise of the device that is not in the probabilities, such as drift, is not reproduced.

        Args:
            inputs: (B, n), radians.
            shots: at least 1.
            rng: numpy's generator, from which the shots are drawn.

        Returns:
            (B, O), like ``inputs``.

        Raises:
            ValueError: for shots below 1.
        """
        if shots < 1:
            raise ValueError(f"Invalid shots: {shots}; it must be at least 1")
        probabilities = self.probabilities(inputs.detach().double().cpu())
        return torch.from_numpy(rng.multinomial(shots, probabilities.numpy()) / shots).to(inputs)

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
        values = values_of(self.coefficients)
        variance = values * (1 - values) / max(self.shots - 1, 1)
        return contract(inputs, variance.clamp(min=0).to(inputs), lambda x, size: node_weights(x, size) ** 2)

    def split(self, samples: Tensor | None = None) -> PowerSplit:
        """Shares of each output's power that are constant, single-angle, and multi-angle.

        Args:
            samples: (N, n) angles from the distribution in question, such as those that occurred in training; 100 times
                as many as the single-angle series have terms. None (default): independent and uniform, exactly.

        Returns:
            A :class:`PowerSplit`.
        """
        if samples is None:
            return split_uniform(self.coefficients)
        return split_samples(self(samples.double()), samples, self.coefficients.shape[:-1])

    def project(self, matrix: Tensor) -> FourierSurrogate:
        """The surrogate of ``outputs @ matrix``; matrix is (O, new O)."""
        return FourierSurrogate(self.coefficients @ matrix.to(self.coefficients), self.shots)

    def state_dict(self) -> dict[str, Any]:
        """Coefficients and shots."""
        return {"coefficients": self.coefficients, "shots": self.shots}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> FourierSurrogate:
        """The surrogate that :meth:`state_dict` came from."""
        return cls(state["coefficients"].cpu(), int(state["shots"]))

    def _check(self, inputs: Tensor) -> None:
        if inputs.ndim != 2 or inputs.shape[1] != self.num_inputs or not inputs.is_floating_point():
            raise ValueError(
                f"Invalid inputs: {inputs.dtype} of shape {tuple(inputs.shape)}; they must be floating point, "
                f"(B, {self.num_inputs})"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}


def input_degrees(ansatz: Ansatz) -> list[int]:
    """Highest frequency of each input: the sum, over the gates that it enters, of |coefficient| times the gate's own.

    Raises:
        ValueError: for an angle that is not linear in an input, or a frequency that is no integer.
    """
    form = ansatz.normal_form
    degrees = [0] * ansatz.num_inputs
    for source, slopes, depends in zip(form.sources, form.angles.forms[:, 1:], form.angles.depends, strict=True):
        if not source.frequencies:
            continue
        for i in np.flatnonzero(depends[: ansatz.num_inputs]):
            name = ansatz.inputs[i].name
            bent = [k for k, row in enumerate(form.angles.rows) if slopes[ansatz.num_inputs + k]]
            if any(ansatz.inputs[i] in form.angles.rows[k].parameters for k in bent):
                raise ValueError(
                    f"Angle {source.expression} is not linear in {name}, so that it has no Fourier series of its own; "
                    "run the circuit in each step (LiveCircuitPerturbation)"
                )
            products = [slopes[i] * frequency for frequency in source.frequencies]
            if any(abs(product - round(product)) > 1e-12 for product in products):
                raise ValueError(
                    f"Input {name} enters a gate by the angle {source.expression}, at frequencies of "
                    f"{', '.join(f'{product:g}' for product in products)}; only integers have a Fourier series of "
                    "period 2 pi: multiply the input by a whole number there, or run the circuit in each step "
                    "(LiveCircuitPerturbation)"
                )
            degrees[i] += abs(round(products[-1]))
    return degrees


def grid_sizes(ansatz: Ansatz) -> tuple[int, ...]:
    """Grid points per input, 1 + 2 * degree: as many as there are coefficients.

    Raises:
        ValueError: as :func:`input_degrees`.
    """
    return tuple(1 + 2 * degree for degree in input_degrees(ansatz))


def grid_shape(ansatz: Ansatz) -> tuple[int, ...]:
    """:func:`grid_sizes`, within the limit.

    Raises:
        ValueError: as :func:`input_degrees`, or for more than 20,000 points in all.
    """
    return check_grid(grid_sizes(ansatz))


def check_grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape itself, unless it has more than 20,000 points.

    Raises:
        ValueError: if it has.
    """
    if (points := math.prod(shape)) > MAX_GRID:
        raise ValueError(
            f"The surrogate of this circuit needs {points:,} grid points, more than {MAX_GRID:,}; "
            "use fewer qubits or layers, or run the circuit in each step (LiveCircuitPerturbation)"
        )
    return shape


def grid_points(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """(product of shape, n) radians, the first input slowest."""
    return torch.cartesian_prod(*map(nodes, shape)).reshape(-1, len(shape)).numpy()


def run_in_chunks(
    network: QuantumNetwork,
    points: NDArray[np.float64],
    weights: ArrayLike | None,
    size: int = CHUNK,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Probabilities at all the points, at most ``size`` circuits at once: bounds the memory that shots take."""
    probabilities = []
    for start in range(0, len(points), size):
        probabilities.append(network.probabilities(points[start : start + size], weights))
        on_progress(min(start + size, len(points)), len(points))
    return np.concatenate(probabilities)
