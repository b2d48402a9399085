"""The series of a circuit: where it comes from, and how far it is from fresh circuits."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from lightning_qsgd.optim.circuit_perturbation import CircuitPerturbation
    from lightning_qsgd.quantum import FourierSurrogate, LightConeSurrogate

log = logging.getLogger("lightning_qsgd")


def measured_series(circuit: CircuitPerturbation) -> tuple[FourierSurrogate | LightConeSurrogate, dict[str, float]]:
    """The circuit's series, from its calibration or from its sampler on the grid; and the calibration's tests.

    Raises:
        FileNotFoundError, ValueError: if there is no such calibration, or it does not fit; if there is no series.
    """
    from lightning_qsgd.quantum import Calibration, FourierSurrogate, modulation_observables
    from lightning_qsgd.quantum.light_cone import fit_smallest

    if circuit.calibration:
        calibration = Calibration.load(circuit.calibration)
        calibration.check(circuit.ansatz, circuit.weights, circuit.calibration)
        for warning in calibration.warnings():
            log.warning(f"Calibration {circuit.calibration}: {warning}")
        return calibration.surrogate, calibration.results()
    with circuit.network.counting_for(circuit):
        if circuit.joint:
            return FourierSurrogate.fit(circuit.network, circuit.weights), {}
        names = modulation_observables(circuit.num_qubits, circuit.decode_chain)
        return fit_smallest(circuit.network, circuit.weights, names), {}


def residuals(circuit: CircuitPerturbation, num_points: int) -> dict[str, float]:
    """See ``CircuitPerturbation.report``; empty before the series is fitted. A residual that is too large is warned of.

    Args:
        circuit: whose series; with a calibration no circuit runs.
        num_points: random points to look at, and circuits to run.
    """
    from lightning_qsgd.quantum import FourierSurrogate
    from lightning_qsgd.quantum.goodness import residual_of

    surrogate, found = circuit.surrogate, {}
    if surrogate is None:
        return {}
    points = random_points(num_points, circuit.num_qubits)
    if whole := isinstance(surrogate, FourierSurrogate):  # the series is of all outcomes
        found["surrogate_clipped_mass"] = float(surrogate.clipped_mass(points).mean())
    if circuit.calibration:
        return found | {f"calibration_{name}": value for name, value in circuit.tests.items()}
    fresh = torch.from_numpy(circuit.measure(points.numpy(), step=None))
    if not whole:
        fresh = (1 + fresh @ circuit.matrix) / 2
    residual = residual_of(surrogate, points, fresh, circuit.network.qnn.shots or 0)
    found |= {"surrogate_residual": residual.found, "surrogate_residual_expected": residual.expected}
    if residual.too_large:
        log.warning(
            f"The circuit's series does not describe {type(circuit.network.sampler).__name__}: {num_points} fresh "
            f"circuits give a {residual}. Either errors depend on the angles, or the answers change from circuit to "
            "circuit (drift, a hidden state). Use mode='live', which runs the circuits themselves, or another sampler; "
            "lightning-qsgd calibrate measures again and tells the two causes apart"
        )
    return found


def random_points(num_points: int, num_qubits: int) -> torch.Tensor:
    """(num_points, num_qubits) angles, float64, uniform in [-pi, pi); the same ones in each call."""
    return torch.from_numpy(np.random.default_rng(0).uniform(-np.pi, np.pi, (num_points, num_qubits)))


def without_shots(circuit: CircuitPerturbation) -> CircuitPerturbation:
    """A copy in surrogate mode whose series answers as it is, without shot noise."""
    twin = copy.copy(circuit)
    twin.shot_noise, twin.on_answer = None, None
    return twin


def simulated(circuit: CircuitPerturbation) -> CircuitPerturbation:
    """A copy whose series is that of the circuit simulated exactly, whatever runs the circuit itself.

    Its ``prepare`` raises ValueError where the circuit has no series, or one of too many terms.
    """
    from lightning_qsgd.quantum import ExactSampler

    twin = without_shots(circuit)
    twin.sampler, twin.mode, twin.calibration, twin.joint = ExactSampler(), "surrogate", None, False
    twin._network = twin._surrogate = twin._modulation = twin._offset = twin._fallback = None
    twin.on_failure, twin.circuits, twin.shots = "stop", 0, 0
    return twin


def fallback_series(circuit: CircuitPerturbation) -> CircuitPerturbation:
    """A copy whose series, uncentred, stands in for live circuits: that of its calibration, or of the exact circuit."""
    twin = simulated(circuit)
    twin.calibration, twin.center = circuit.calibration, None
    return twin
