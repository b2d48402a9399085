"""Calibration: a device's response measured once, checked, dated, and kept in a file.

The grid of a Fourier surrogate is run in random order, so that drift becomes noise instead of a false frequency; one
reference point is repeated throughout, which shows drift; held-out points test the surrogate. The file is a numpy
archive without pickle: coefficients, the raw frequencies, and the provenance as JSON.

Shapes: N grid points, M held-out points, R repeats of the reference point, n inputs, O outcomes.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from qiskit import QuantumCircuit

from lightning_qsgd.files import atomic_write
from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.fingerprint import of_ansatz
from lightning_qsgd.quantum.goodness import CHANCE, ROUNDING, Residual, drift_test, residual_of, surrogate_test
from lightning_qsgd.quantum.network import QuantumNetwork
from lightning_qsgd.quantum.samplers import backend_of, calibration_date
from lightning_qsgd.quantum.simulator import CircuitSimulator
from lightning_qsgd.quantum.surrogate import CHUNK, FourierSurrogate, grid_points, grid_shape, run_in_chunks

FORMAT = 1
PACKAGES = ("lightning-qsgd", "qiskit", "qiskit-machine-learning", "qiskit-aer", "qiskit-ibm-runtime", "numpy")


@dataclass
class Calibration:
    """A measured surrogate with what is known about it.

    Attributes:
        surrogate: the fitted series of all outcomes.
        points: (N + M + R, n) radians, in the order in which they ran.
        frequencies: (N + M + R, O) measured there.
        kinds: (N + M + R,): 0 grid, 1 held out, 2 reference.
        provenance: plain values: circuit (its hash), backend, shots, dates, versions, results of the tests.
    """

    surrogate: FourierSurrogate
    points: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    kinds: NDArray[np.int8]
    provenance: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write a ``.npz`` file, completely or not at all."""
        with atomic_write(path, "wb") as file:
            np.savez_compressed(
                file,
                coefficients=self.surrogate.coefficients.numpy(),
                points=self.points,
                frequencies=self.frequencies,
                kinds=self.kinds,
                provenance=np.array(json.dumps(self.provenance)),
            )

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file; nothing in it is executed.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged or no calibration.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"Calibration {path} not found; make it with: lightning-qsgd calibrate --config ... --output {path}"
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                names = ("coefficients", "points", "frequencies", "kinds")
                coefficients, points, frequencies, kinds = (file[name] for name in names)
                provenance = json.loads(str(file["provenance"]))
            if provenance["format"] != FORMAT:
                raise ValueError(f"its format is {provenance['format']}, not {FORMAT}")
            surrogate = FourierSurrogate(torch.from_numpy(coefficients), provenance["shots"])
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"Calibration {path} cannot be read ({error}); calibrate again") from error
        return cls(surrogate, points, frequencies, kinds, provenance)

    def check(self, ansatz: Ansatz, weights: ArrayLike, path: str | Path) -> None:
        """Refuse a calibration of another circuit, or one past its age limit.

        Args:
            ansatz, weights: the circuit and its fixed rotations that are to be answered for.
            path: named in the error.

        Raises:
            ValueError: if it does not fit.
        """
        if self.provenance["circuit"] != of_ansatz(ansatz, weights):
            raise ValueError(
                f"Calibration {path} is of another circuit ({self.provenance['description']}); calibrate this one"
            )
        made, limit = datetime.fromisoformat(self.provenance["created"]), self.provenance["max_age_days"]
        age = datetime.now(UTC) - made
        if limit is not None and age > timedelta(days=limit):
            raise ValueError(
                f"Calibration {path} is {age / timedelta(days=1):.1f} days old, more than its limit of {limit:g}; "
                "devices drift: calibrate again"
            )

    @cached_property
    def residual(self) -> Residual:
        """That of the held-out points, from the raw frequencies: files of all versions have them."""
        held_out = self.kinds == 1
        points, measured = torch.from_numpy(self.points[held_out]), torch.from_numpy(self.frequencies[held_out])
        return residual_of(self.surrogate, points, measured, self.surrogate.shots)

    def misfit(self) -> str | None:
        """Why the series does not describe its device, and ways out; None where shots or rounding explain the residual.

        A device that drifts shows it in the repeats of one point; an error that depends on the angles does not.
        """
        if not self.residual.too_large:
            return None
        results = self.results()
        drift = results["drift_largest"] > ROUNDING if self.residual.exact else results.get("drift_p", 1) < CHANCE
        cause = "show no drift: its errors depend on the angles. Use"
        if drift:
            cause = "differ: it drifted, or keeps a state between circuits. Calibrate again when it is steady, use"
        return (
            f"the series does not describe the device: held-out points give a {self.residual}, and repeats of one "
            f"point {cause} another sampler, or LiveCircuitPerturbation without a calibration, which runs the circuits "
            "themselves"
        )

    def warnings(self) -> list[str]:
        """The misfit, or what the tests found wrong at p below 0.01; empty if nothing."""
        if misfit := self.misfit():
            return [misfit]
        results = self.results()
        found = {
            "fit_p": "the series does not fit held-out points: errors depend on the angles, or the device drifted",
            "drift_p": "repeats of one point differ: the device drifted while it was calibrated",
        }
        return [f"{text} (p = {results[name]:.1e})" for name, text in found.items() if results.get(name, 1) < 0.01]

    def results(self) -> dict[str, float]:
        """Numbers of the tests, by name: p-values, chi-square over its degrees of freedom, largest residual."""
        return {name: value for name, value in self.provenance["results"].items() if value is not None}


def calibrate(
    network: QuantumNetwork,
    weights: ArrayLike | None = None,
    *,
    held_out: int = 64,
    references: int = 16,
    seed: int = 0,
    max_age_days: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Run a network's grid in random order, with held-out and reference points, and test the fit.

    Args:
        network: the device; see :meth:`FourierSurrogate.fit`.
        weights: (num_weights,), radians, held fixed.
        held_out: points that the fit does not see, at least 1. Default: 64.
        references: repeats of the reference point, at least 3. Default: 16.
        seed: of order, held-out points and reference point. Default: 0.
        max_age_days: after which the file is refused; None (default): never, as for simulators.
        on_progress: called with (circuits done, circuits in all).

    Raises:
        ValueError: for an invalid number, or a circuit without a surrogate.
    """
    if held_out < 1 or references < 3:
        raise ValueError(f"Invalid held_out, references: {held_out}, {references}; at least 1 and 3")
    if seed < 0:
        raise ValueError(f"Invalid seed: {seed}; it must be at least 0")
    if max_age_days is not None and not 0 < max_age_days < math.inf:
        raise ValueError(f"Invalid max_age_days: {max_age_days}; it must be above 0, or none for no limit")
    shape = grid_shape(network.ansatz)
    points, kinds = design(shape, _reference_point(network.ansatz, weights, seed), held_out, references, seed)
    before = network.circuits, network.seconds
    frequencies = _run(network, points, weights, on_progress)
    grid = np.flatnonzero(kinds == 0)
    order = np.lexsort(np.rint(points[grid] * 1e9).T[::-1])  # the first input slowest, as in grid_points
    values = frequencies[grid][order].reshape(*shape, -1)
    shots = network.qnn.shots or 0
    surrogate = FourierSurrogate.from_grid(values, shots)
    at, measured = torch.from_numpy(points[kinds == 1]), frequencies[kinds == 1]
    fit, drift = surrogate_test(surrogate, at, measured), drift_test(frequencies[kinds == 2], shots)
    provenance = _provenance(network, weights) | {
        "circuits": network.circuits - before[0],
        "seconds": round(network.seconds - before[1], 3),
        "seed": seed,
        "max_age_days": max_age_days,
        "results": {
            "fit_p": fit.p,
            "fit_chi_square_per_dof": None if fit.statistic is None else fit.statistic / max(fit.dof, 1),
            "fit_largest_residual": fit.largest,
            "drift_p": drift.p,
            "drift_largest": drift.largest,
        },
    }
    return Calibration(surrogate, points, frequencies, kinds, provenance)


def num_circuits(ansatz: Ansatz, held_out: int = 64, references: int = 16) -> int:
    """Circuits that :func:`calibrate` runs."""
    return math.prod(grid_shape(ansatz)) + held_out + references


def design(
    shape: tuple[int, ...], reference: NDArray[np.float64], held_out: int, references: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Points (N + M + R, n) and their kinds, in running order: reference points evenly among the shuffled others."""
    rng = np.random.default_rng(seed)
    grid = grid_points(shape)
    others = np.concatenate([grid, rng.uniform(-np.pi, np.pi, (held_out, len(shape)))])
    kinds = np.repeat([0, 1], [len(grid), held_out])
    order = rng.permutation(len(others))
    places = np.linspace(0, len(others), references).round().astype(int)
    return np.insert(others[order], places, reference, axis=0), np.insert(kinds[order], places, 2).astype(np.int8)


def _reference_point(ansatz: Ansatz, weights: ArrayLike | None, seed: int) -> NDArray[np.float64]:
    """Where the ideal outcomes are most evenly spread, among 64 random points: there drift shows best."""
    candidates = np.random.default_rng((seed, 1)).uniform(-np.pi, np.pi, (64, ansatz.num_inputs))
    try:
        simulate = CircuitSimulator(ansatz)
    except ValueError:  # a circuit that the simulator does not take
        return candidates[0]
    fixed = torch.as_tensor(np.asarray([] if weights is None else weights, np.float64))
    ideal = simulate(torch.from_numpy(candidates), fixed)
    return candidates[int(torch.special.entr(ideal).sum(-1).argmax())]


def _run(
    network: QuantumNetwork,
    points: NDArray[np.float64],
    weights: ArrayLike | None,
    on_progress: Callable[[int, int], None],
) -> NDArray[np.float64]:
    sampler: Any = network.sampler
    if hasattr(sampler, "on_progress"):  # it splits into jobs itself, and submits them together
        sampler.on_progress = on_progress
        try:
            return network.probabilities(points, weights)
        finally:
            sampler.on_progress = None
    return run_in_chunks(network, points, weights, max(64, min(CHUNK, len(points) // 50)), on_progress)


def _description(circuit: QuantumCircuit) -> str:
    name = "" if circuit.name.startswith("circuit-") else f"{circuit.name}, "  # Qiskit's own names are running numbers
    gates = ", ".join(f"{count} {gate}" for gate, count in circuit.count_ops().items())
    return f"{name}{circuit.num_qubits} qubits, depth {circuit.depth()}: {gates}"


def _provenance(network: QuantumNetwork, weights: ArrayLike | None) -> dict[str, Any]:
    backend = backend_of(network.sampler)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    ansatz = network.ansatz
    return {
        "format": FORMAT,
        "circuit": of_ansatz(ansatz, weights),
        "description": _description(ansatz.circuit),
        "weights": np.asarray([] if weights is None else weights, float).tolist(),
        "sampler": type(network.sampler).__name__,
        "backend": getattr(backend, "name", None),
        "backend_calibrated": calibration_date(network.sampler),
        "shots": network.qnn.shots or 0,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
    }
