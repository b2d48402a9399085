"""Audit an optimizer's perturbation from its recorded trajectory.

Shapes: T recorded steps, P blocks, n angles and outputs of a block; N = T * P rows.
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.audit.equivalents import map_shares, sine_amplitude, truncate
from lightning_qsgd.audit.findings import PerturbationFindings, Shares
from lightning_qsgd.audit.recording import Trajectory
from lightning_qsgd.audit.split import Split
from lightning_qsgd.optim import (
    CircuitPerturbation,
    LiveCircuitPerturbation,
    Perturbation,
    SinePerturbation,
    TwinPerturbation,
)
from lightning_qsgd.quantum.fourier import split_uniform

REPEATS = 512  # blocks to evaluate twice, to measure noise
SPANS = 24  # of time, at most
POINTS = 600  # in the figure
DEGREE = 4  # of the one-angle series of an unknown perturbation
TABLES = ("frozen", "constant", "scalar")  # twins that do not depend on angles
ROWS = 1024  # in one call of a series


class Noise(NamedTuple):
    """The random part of a perturbation's values.

    Attributes:
        squares: estimates of its variance (R, n), one for each block that was evaluated twice, NaN in padding; None if
            nothing is random.
        clean: the values without it (N, n); None if nothing is random, or they are unknown.
        function: whether the other part depends only on the angles of a block. It does not for a table, or if it
            depends on the step.
    """

    squares: Tensor | None
    clean: Tensor | None
    function: bool = True


def audit_perturbation(trajectory: Trajectory, perturbation: Perturbation) -> PerturbationFindings:
    """Split the perturbation along a run into parts, and find classical maps that reproduce it.

    Args:
        trajectory: the recorded trajectory.
        perturbation: the perturbation after the run. At most 512 blocks are evaluated twice, to measure noise.

    Raises:
        ValueError: if fewer blocks were recorded than a projection needs, 10 for each term of the one-angle series.
    """
    before = perturbation.circuits, perturbation.shots
    times, blocks, n = trajectory.s.shape
    sizes = terms_of(perturbation)
    angles, s = trajectory.angles.reshape(-1, n), trajectory.s.reshape(-1, n)
    each = torch.from_numpy(trajectory.stands_for)
    weights, tensors = each.repeat(times), np.tile(trajectory.numbers, times)
    if len(s) < (needed := 10 * (1 + sum(size - 1 for size in sizes))):
        raise ValueError(
            f"Invalid audit: {len(s)} blocks of angles in {times} recorded steps; this circuit's split needs {needed}. "
            "Train longer, or use scope='all'"
        )
    table = isinstance(perturbation, TwinPerturbation) and perturbation.kind in TABLES
    noise = Noise(None, None, False) if table else noise_of(perturbation, angles, s, weights)
    unknown = noise.squares if noise.clean is None else None
    split = Split(angles, s, weights, sizes, noise.clean, unknown, function=noise.function)
    fitted = split.fitted()
    shares, maps = map_shares(trajectory.angles, trajectory.s, trajectory.numbers, each, fitted.view(times, blocks, n))
    function = noise.clean if noise.clean is not None else s if noise.squares is None and noise.function else None
    known = ~s.isnan().any(1) & ~torch.tensor(function is None)
    owners = np.tile(np.arange(blocks), times)
    sampled = unknown is not None
    found = s.double()[~s.isnan()]
    share = weights[:, None].expand_as(s)[~s.isnan()]
    offset = float((share * found).sum() / share.sum())
    spread = float(((share * (found - offset) ** 2).sum() / share.sum()).sqrt())
    statistics = trajectory.statistics
    used = [row["quantum_weight"] for row in statistics] or [trajectory.settings["quantum_weight"]]
    overall = split.shares()
    return PerturbationFindings(
        identity=perturbation.identity(),
        settings=dict(trajectory.settings),
        steps=trajectory.steps.tolist(),
        coordinates=(trajectory.touched, int((~trajectory.s[0].isnan()).sum())),
        shares=overall,
        intervals={} if trajectory.complete and not sampled else split.intervals(trajectory.numbers, owners),
        per_qubit=[split.shares(qubit=q) for q in range(n)],
        per_tensor=_by_tensor(split, trajectory, tensors),
        over_time=_by_time(split, trajectory.steps, blocks),
        uniform=_uniform(perturbation),
        maps=shares,
        sine_amplitude=sine_amplitude(trajectory.angles, trajectory.s, each),
        offset=offset,
        spread=spread,
        learning_rate_factor=1 + median(used) * offset,
        truncation=None
        if function is None
        else truncate(angles[known], function[known], weights[known], sizes, blocks=owners[known.numpy()]),
        device_error=_device_error(perturbation, angles, function, s, noise, weights, overall.power),
        norm_ratio=median(row["norm_ratio"] for row in statistics) if statistics else None,
        effective=median(row["effective"] / max(row["touched"], 1) for row in statistics) if statistics else None,
        points=_points(trajectory.s, each, shares, maps),
        sampled=sampled,
        few=blocks < split.enough,
        circuits=perturbation.circuits - before[0],
        shots=perturbation.shots - before[1],
        ran_on=_ran_on(perturbation),
    )


def terms_of(perturbation: Perturbation) -> list[int]:
    """Number of terms of the one-angle series in each angle, 1 + 2 * degree; degree 4 if the circuit has no series."""
    if isinstance(perturbation, TwinPerturbation):
        return terms_of(perturbation.reference)
    if isinstance(perturbation, SinePerturbation):
        return [3] * perturbation.num_qubits
    if isinstance(perturbation, CircuitPerturbation):
        from lightning_qsgd.quantum.surrogate import grid_sizes

        try:
            return list(grid_sizes(perturbation.ansatz))
        except ValueError:  # a gate without integer frequencies
            pass
    return [1 + 2 * DEGREE] * perturbation.num_qubits


def noise_of(perturbation: Perturbation, angles: Tensor, s: Tensor, weights: Tensor) -> Noise:
    """Measure noise by evaluating some blocks twice, at steps that no run reaches.

    Args:
        perturbation: the perturbation.
        angles, s: recorded angles and modulations (N, n), NaN in padding, and where a step did not touch a block.
        weights: probabilities (N,), up to a factor, with which blocks are drawn.
    """
    there = (~s.isnan()).any(1).nonzero()[:, 0]
    rows = there[torch.from_numpy(drawn(weights[there], REPEATS))]
    asked, recorded = angles[rows].nan_to_num(), s[rows]
    real = ~recorded.isnan()
    first, second = (answer(perturbation, asked, step) for step in (2**31 - 2, 2**31 - 1))
    if torch.allclose(first, second, rtol=0, atol=1e-6):
        same = torch.allclose(first[real], recorded[real].to(first), rtol=0, atol=1e-3)
        return Noise(None, None, function=same)
    squares = ((first - second).double().square() / 2).masked_fill(~real, torch.nan)
    if isinstance(perturbation, CircuitPerturbation) and not isinstance(perturbation, LiveCircuitPerturbation):
        return Noise(squares, answer(perturbation.without_shots(), angles.nan_to_num(), 0))
    return Noise(squares, None)


def answer(perturbation: Perturbation, angles: Tensor, step: int) -> Tensor:
    """Evaluate s (N, n) for rows of angles (N, n) without padding."""
    perturbation.layout = [(0, angles.numel(), 0)]
    circuit = perturbation.reference if isinstance(perturbation, TwinPerturbation) else perturbation
    limit = len(angles)
    if isinstance(circuit, CircuitPerturbation):
        most = circuit.max_circuits if isinstance(circuit, LiveCircuitPerturbation) else ROWS
        limit = most // (2 if circuit.center == "odd" else 1)
    return torch.cat([perturbation.forward(part, step=step) for part in angles.split(max(limit, 1))])


def drawn(weights: Tensor, count: int, seed: int = 0) -> np.ndarray:
    """Draw row numbers by weight, without repetition; all rows if there are at most ``count``."""
    if len(weights) <= count:
        return np.arange(len(weights))
    share = (weights / weights.sum()).numpy()
    return np.random.default_rng(seed).choice(len(weights), count, replace=False, p=share)


def _by_tensor(split: Split, trajectory: Trajectory, tensors: np.ndarray) -> dict[str, Shares]:
    groups = {int(number): np.flatnonzero(tensors == number) for number in np.unique(tensors)}
    return {
        trajectory.names[number]: split.shares(torch.from_numpy(rows))
        for number, rows in groups.items()
        if (trajectory.numbers == number).sum() >= split.enough
    }


def _by_time(split: Split, steps: np.ndarray, blocks: int) -> dict[int, Shares]:
    least = -(-split.enough // blocks)  # minimum number of steps in a span
    spans = np.array_split(np.arange(len(steps)), max(min(SPANS, len(steps) // least), 1))
    return {int(steps[span[0]]): split.shares(slice(span[0] * blocks, (span[-1] + 1) * blocks)) for span in spans}


def _uniform(perturbation: Perturbation) -> Shares | None:
    series = perturbation.series if isinstance(perturbation, CircuitPerturbation) else None
    if series is None:
        return None
    split = split_uniform(series.coefficients)
    total = float(split.total.sum())
    constant, single, multi = (float((part * split.total).sum()) / (total or 1) for part in split[:3])
    return Shares(constant, single, multi, 0.0, total / len(split.total), 0)


def _ran_on(perturbation: Perturbation) -> str:
    circuit = perturbation.reference if isinstance(perturbation, TwinPerturbation) else perturbation
    if not isinstance(circuit, CircuitPerturbation):
        return ""
    from lightning_qsgd.quantum import Calibration
    from lightning_qsgd.quantum.samplers import ExactSampler, described

    if circuit.calibration is None or isinstance(circuit, LiveCircuitPerturbation):
        return described(circuit.sampler or ExactSampler())
    try:
        measured = Calibration.load(circuit.calibration).provenance
    except (FileNotFoundError, ValueError):  # a checkpoint's series needs no file
        return f"calibration {circuit.calibration}"
    device = str(measured["backend"] or "no device").removeprefix("aer_simulator_from(").removesuffix(")")
    return f"calibration {circuit.calibration} of {measured['sampler']} on {device}"


def _device_error(
    perturbation: Perturbation,
    angles: Tensor,
    function: Tensor | None,
    s: Tensor,
    noise: Noise,
    weights: Tensor,
    power: float,
) -> float | None:
    if not isinstance(perturbation, CircuitPerturbation) or not power:
        return None
    if perturbation.sampler is None and perturbation.calibration is None:
        return None
    exact = perturbation.simulated()
    try:
        exact.prepare()
    except ValueError:
        return None
    real = ~s.isnan()
    off = (s if function is None else function).double() - answer(exact, angles.nan_to_num(), 0).double()
    squares = off.square()
    if function is None and noise.squares is not None:
        squares = squares - noise.squares.nanmean(0)
    w = weights[:, None] * real
    return max(float((w * squares.nan_to_num()).sum() / w.sum()) / power, 0.0)


def _points(
    s: Tensor, stands_for: Tensor, shares: dict[str, float], maps: dict[str, Tensor]
) -> tuple[str, list[tuple[float, float]]]:
    best = max(shares, key=lambda name: shares[name])
    w = (stands_for[None, :, None] * ~s.isnan()).flatten()
    nonzero = w.nonzero()[:, 0]
    rows = nonzero[torch.from_numpy(drawn(w[nonzero], POINTS))]
    pairs = torch.stack((s.flatten()[rows].double(), maps[best].flatten()[rows]), 1)
    return best, [(float(a), float(b)) for a, b in pairs]
