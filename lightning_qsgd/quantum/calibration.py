"""Calibration: the response of a device, measured once, tested, dated and saved to a file.

The grid of a Fourier surrogate runs in random order, so that drift becomes noise and not a false frequency. Repeats of
one reference point in between show drift, and held-out points test the surrogate. The file is a numpy archive without
pickle: coefficients, raw frequencies, and the provenance as JSON.

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
from lightning_qsgd.quantum.surrogate import CHUNK, FourierSurrogate, check_grid, grid_points, grid_sizes, run_in_chunks

FORMAT = 1
PACKAGES = ("lightning-qsgd", "qiskit", "qiskit-machine-learning", "qiskit-aer", "qiskit-ibm-runtime", "numpy")


@dataclass
class Calibration:
    """A measured surrogate, the raw measurements, and their provenance.

    Attributes:
        surrogate: the fitted series of all outcomes.
        points: (N + M + R, n) inputs, radians, in the order in which they ran.
        frequencies: (N + M + R, O) frequencies measured there.
        kinds: (N + M + R,) the kind of each point: 0 grid, 1 held out, 2 reference.
        provenance: a dict of plain values: hash of the circuit, backend, shots, dates, versions, results of the tests.
    """

    surrogate: FourierSurrogate
    points: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    kinds: NDArray[np.int8]
    provenance: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write a ``.npz`` file. If this fails, an existing file is not changed."""
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
        """Read a file. Nothing in it is executed.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it is damaged, or not a calibration.
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
        """Check that the calibration is of a circuit, and within its age limit.

        Args:
            ansatz: the circuit.
            weights: (num_weights,), radians, its fixed weights.
            path: the file, for the error.

        Raises:
            ValueError: if it is of another circuit, or too old.
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
        """The residual at the held-out points, computed from the raw frequencies, which files of all versions have."""
        held_out = self.kinds == 1
        points, measured = torch.from_numpy(self.points[held_out]), torch.from_numpy(self.frequencies[held_out])
        return residual_of(self.surrogate, points, measured, self.surrogate.shots)

    def misfit(self) -> str | None:
        """Why the series does not describe its device, and what to do; None if shots or rounding explain the residual.

        Drift changes the repeats of one point; errors that depend on the angles do not.
        """
        if not self.residual.too_large:
            return None
        results = self.results()
        drift = results["drift_largest"] > ROUNDING if self.residual.exact else results.get("drift_p", 1) < CHANCE
        cause = "show no drift: its errors depend on the angles. Use"
        if drift:
            cause = "differ: it drifted, or keeps a state between circuits. Calibrate again when it is stable, use"
        return (
            f"the series does not describe the device: held-out points give a {self.residual}, and repeats of one "
            f"point {cause} another sampler, or LiveCircuitPerturbation without a calibration, which runs circuits in "
            "each step"
        )

    def warnings(self) -> list[str]:
        """The misfit, or what the tests found at p below 0.01; empty if nothing."""
        if misfit := self.misfit():
            return [misfit]
        results = self.results()
        found = {
            "fit_p": "the series does not fit held-out points: errors depend on the angles, or the device drifted",
            "drift_p": "repeats of one point differ: the device drifted while it was calibrated",
        }
        return [f"{text} (p = {results[name]:.1e})" for name, text in found.items() if results.get(name, 1) < 0.01]

    def results(self) -> dict[str, float]:
        """Results of the tests by name: p-values, chi-square over its degrees of freedom, largest residual, ..."""
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
    """Run the grid of a network in random order, with held-out and reference points, and test the fit.

    Args:
        network: the network to calibrate.
        weights: (num_weights,), radians, held fixed. Default: None, only for an ansatz without weights.
        held_out: number of held-out points, at least 1. Default: 64.
        references: number of repeats of the reference point, at least 3. Default: 16.
        seed: seed of the order, the held-out points and the reference point, at least 0. Default: 0.
        max_age_days: age at which :meth:`Calibration.check` refuses the calibration, above 0. Default: None, never.
        on_progress: called with (number of circuits done, total number).

    Raises:
        ValueError: if an argument is invalid, or the circuit has no surrogate; see :meth:`FourierSurrogate.fit`.
    """
    if held_out < 1 or references < 3:
        raise ValueError(f"Invalid held_out, references: {held_out}, {references}; at least 1 and 3")
    if seed < 0:
        raise ValueError(f"Invalid seed: {seed}; it must be at least 0")
    if max_age_days is not None and not 0 < max_age_days < math.inf:
        raise ValueError(f"Invalid max_age_days: {max_age_days}; it must be above 0, or none for no limit")
    shape = check_grid(grid_sizes(network.ansatz))
    points, kinds = design(shape, _reference_point(network.ansatz, weights, seed), held_out, references, seed)
    before = network.circuits, network.seconds
    frequencies = _run(network, points, weights, on_progress)
    grid = np.flatnonzero(kinds == 0)
    order = np.lexsort(np.rint(points[grid] * 1e9).T[::-1])  # the first input varies slowest, as in grid_points
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
    """Number of circuits that :func:`calibrate` runs."""
    return math.prod(check_grid(grid_sizes(ansatz))) + held_out + references


def design(
    shape: tuple[int, ...], reference: NDArray[np.float64], held_out: int, references: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Points (N + M + R, n) and their kinds, in the order of their runs: reference points are evenly spaced."""
    rng = np.random.default_rng(seed)
    grid = grid_points(shape)
    others = np.concatenate([grid, rng.uniform(-np.pi, np.pi, (held_out, len(shape)))])
    kinds = np.repeat([0, 1], [len(grid), held_out])
    order = rng.permutation(len(others))
    places = np.linspace(0, len(others), references).round().astype(int)
    return np.insert(others[order], places, reference, axis=0), np.insert(kinds[order], places, 2).astype(np.int8)


def _reference_point(ansatz: Ansatz, weights: ArrayLike | None, seed: int) -> NDArray[np.float64]:
    """Of 64 random points, the one whose ideal outcomes have the largest entropy: there drift is most visible."""
    candidates = np.random.default_rng((seed, 1)).uniform(-np.pi, np.pi, (64, ansatz.num_inputs))
    try:
        simulate = CircuitSimulator(ansatz)
    except ValueError:  # too large for the simulator, or with resets
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
    if hasattr(sampler, "on_progress"):  # it splits requests into jobs, and submits them together
        sampler.on_progress = on_progress
        try:
            return network.probabilities(points, weights)
        finally:
            sampler.on_progress = None
    return run_in_chunks(network, points, weights, max(64, min(CHUNK, len(points) // 50)), on_progress)


def _description(circuit: QuantumCircuit) -> str:
    name = "" if circuit.name.startswith("circuit-") else f"{circuit.name}, "  # Qiskit's default names are numbered
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
