"""The angles and outcomes of a perturbation in one step, and their distance from the exact circuit.

Shapes: B blocks, n qubits, O = 2**n outcomes; bit k of an outcome is qubit k.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_qsgd.optim import CircuitPerturbation, LiveCircuitPerturbation
from lightning_qsgd.optim.circuit_perturbation import random_points
from lightning_qsgd.optim.perturbation import Perturbation

if TYPE_CHECKING:
    from lightning_qsgd.quantum import CircuitSimulator

BLOCKS = 32  # the first blocks of a step are compared
_SAMPLE = 2**18  # angles kept for the histogram


class Outcomes(NamedTuple):
    """Distributions of the outcomes of some blocks.

    Args:
        exact: those of the exact circuit, (B, O).
        found: others by name, (B, O): "measured" on the sampler, "series" of the surrogate.
    """

    exact: Tensor
    found: dict[str, Tensor]


class CircuitWatch:
    """Listen to a perturbation between :meth:`start` and :meth:`stop`, without running circuits.

    Args:
        perturbation: any perturbation. Outcomes are compared if it is a :class:`CircuitPerturbation` that a
            ``CircuitSimulator`` can simulate (at most 12 qubits).

    Attributes:
        perturbation: the argument.
        circuit: the argument if it is a :class:`CircuitPerturbation`, otherwise None.
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation
        self.circuit = perturbation if isinstance(perturbation, CircuitPerturbation) else None
        self._listening, self._before, self._network = False, perturbation.on_answer, None
        self._rotations: Tensor | None = None
        self._simulator: CircuitSimulator | None = None
        self._can_simulate = True
        self._forget()

    def _forget(self) -> None:
        self._angles: list[Tensor] = []
        self._first: Tensor | None = None  # blocks of the first call
        self._ran: tuple[Tensor, Tensor] | None = None  # inputs and frequencies of the first circuits

    def start(self, *, reporting: bool = False) -> None:
        """Start to listen, and drop earlier records.

        Args:
            reporting: whether ``CircuitPerturbation.report`` follows, which runs circuits of a series. Default: False.
        """
        self.stop()
        self._forget()
        self._listening, self._before = True, self.perturbation.on_answer
        self.perturbation.on_answer = self._hear
        if (circuit := self.circuit) is not None:
            fresh = reporting and circuit.surrogate is not None and not circuit.calibration
            if isinstance(circuit, LiveCircuitPerturbation) or fresh:
                self._network = circuit.network
                self._network.on_run = self._measured

    def stop(self) -> None:
        """Stop listening."""
        if self._listening:
            self._listening, self.perturbation.on_answer = False, self._before
        if self._network is not None:
            self._network.on_run, self._network = None, None

    @property
    def angles(self) -> Tensor:
        """pi * theta of the touched coordinates on this rank, flat, float32, at most 2**18; reading clears them."""
        angles, self._angles = torch.cat([*self._angles, torch.empty(0)]), []
        return angles

    def outcomes(self) -> Outcomes | None:
        """Distributions at the first 32 circuits that ran, or at the first 32 blocks of a series.

        With a calibration and before any step they are at random points. None if there is no circuit or no record.
        """
        circuit = self.circuit
        if circuit is None:
            return None
        found = {}
        points = self._first
        if self._ran is not None:
            points, found["measured"] = self._ran
        elif isinstance(circuit, LiveCircuitPerturbation):
            return None  # circuits failed, and a series replaced them
        elif points is None and circuit.calibration:
            points = random_points(BLOCKS, circuit.num_qubits)
        if points is None or not points.isfinite().all() or (exact := self._exact(points)) is None:
            return None
        from lightning_qsgd.quantum import FourierSurrogate

        if isinstance(circuit.surrogate, FourierSurrogate):
            found["series"] = circuit.surrogate.probabilities(points)
        return Outcomes(exact, found)

    def distances(self) -> dict[str, float]:
        """Distance of live circuits, or of the series, from the exact circuit over the first 32 blocks.

        Returns:
            - error: root mean square difference of s, without ``center``;
            - total_variation: mean total-variation distance of the outcomes, unless the series is of single qubits;
            - error_expected, total_variation_expected: both as shots alone cause them, for live circuits.
        """
        circuit, outcomes = self.circuit, self.outcomes()
        if circuit is None or outcomes is None:
            return {}
        exact, matrix = outcomes.exact, circuit.matrix
        s = exact @ matrix
        name = "measured" if isinstance(circuit, LiveCircuitPerturbation) else "series"
        if name not in outcomes.found:
            if circuit.surrogate is None or self._first is None:
                return {}
            return {"error": _rms(2 * circuit.surrogate(self._first) - 1 - s)}
        found = outcomes.found[name]
        numbers = {
            "error": _rms(found @ matrix - s),
            "total_variation": float(total_variation(found, exact).mean()),
        }
        if isinstance(circuit, LiveCircuitPerturbation) and (shots := circuit.network.qnn.shots):
            numbers["error_expected"] = float(((1 - s * s) / shots).mean().sqrt())
            numbers["total_variation_expected"] = float(_of_shots(exact, shots).mean())
        return numbers

    def _exact(self, points: Tensor) -> Tensor | None:
        if self._simulator is None and self.circuit is not None and self._can_simulate:
            from lightning_qsgd.quantum import CircuitSimulator

            try:
                self._simulator = CircuitSimulator(self.circuit.ansatz)
            except ValueError:  # too many qubits, or an unknown gate
                self._can_simulate = False
                return None
            if self.circuit.ansatz.num_weights:
                self._rotations = torch.as_tensor(self.circuit.weights, dtype=torch.float64)
        return None if self._simulator is None else self._simulator(points, self._rotations)

    def _hear(self, angles: Tensor, s: Tensor, step: int) -> None:
        if self._before is not None:
            self._before(angles, s, step)
        if self._first is None:
            self._first = angles[:BLOCKS].detach().double().cpu()
        if (left := _SAMPLE - sum(map(len, self._angles))) > 0:
            runs = [length for _, *run in self.perturbation.layout for length in run]
            own = angles.detach().flatten()
            if any(runs[1::2]):  # padding
                own = torch.cat(own.split(runs)[::2])
            self._angles.append(own[:left].float().cpu().clone())

    def _measured(self, inputs: NDArray[np.float64], probabilities: NDArray[np.float64]) -> None:
        if self._ran is None:
            self._ran = torch.from_numpy(inputs[:BLOCKS]), torch.from_numpy(probabilities[:BLOCKS])


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Total-variation distance, (B,) in [0, 1], of two distributions (B, O)."""
    return (p - q).abs().sum(-1) / 2


def _of_shots(exact: Tensor, shots: int) -> Tensor:
    """Mean total-variation distance, (B,), between a distribution and frequencies of ``shots`` drawn from it.

    De Moivre's formula for the mean absolute deviation of a binomial number (Diaconis and Zabell 1991).
    """
    from scipy.stats import binom

    p = exact.clamp(0, 1).numpy()
    m = np.floor(shots * p)
    return torch.from_numpy(((m + 1) * (1 - p) * binom.pmf(m + 1, shots, p)).sum(-1) / shots)


def _rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())
