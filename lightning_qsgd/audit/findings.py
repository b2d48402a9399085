"""What an audit found, as plain values: what pages are made from."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shares:
    """Shares of a modulation's (or an output's) mean square over the angles that occurred; they add up to 1.

    Attributes:
        constant: its squared mean, of each qubit: a number that needs no circuit.
        single: what the best sum of functions of one angle each adds (least squares).
        multi: what depends on several angles together.
        rest: what no function of the angles explains: shots, hardware noise, random numbers, or a table.
        power: the mean square itself, the mean over qubits.
        rows: blocks of angles behind it.
        weight: how many values of the model those stand for; 0 where they are all there is.
    """

    constant: float
    single: float
    multi: float
    rest: float
    power: float
    rows: int
    weight: float = 0.0

    def parts(self) -> dict[str, float]:
        """The four shares by name, in order."""
        return {"constant": self.constant, "single": self.single, "multi": self.multi, "rest": self.rest}


@dataclass(frozen=True)
class Truncation:
    """A short trigonometric series that stands in for the modulation, found by forward selection.

    Attributes:
        error: mean square that may be left, as a share of the modulation's.
        terms: products of sines and cosines, the constant included, summed over qubits; None if it was not reached.
        candidates: terms of the whole series, summed over qubits.
        left: the share left on angles that the selection did not see.
        largest: the largest number of angles in one of the terms.
    """

    error: float
    terms: int | None
    candidates: int
    left: float
    largest: int


@dataclass(frozen=True)
class PerturbationFindings:
    """An optimizer's perturbation along one training run.

    Attributes:
        identity: of the perturbation, as checkpoints have it.
        ran_on: the sampler, its device and shots, or the calibration; empty where there is no circuit.
        settings: of the optimizer, by name: quantum_weight, scale, scope, target, coupling, lr.
        steps: optimizer steps that were recorded, in order.
        coordinates: touched coordinates, and how many of them were recorded.
        shares: of all that was recorded.
        intervals: 95 % intervals of the four shares, from resampling the recorded blocks; empty where all blocks of
            the model are recorded.
        per_qubit: by qubit, in order.
        per_tensor: by the parameter's name; projections are of that tensor's angles alone. Tensors with too few
            recorded blocks are left out.
        over_time: by optimizer step, the first of each span; projections are of that span's angles alone.
        uniform: the same for independent, uniform angles; None where there is no series.
        maps: share of the power that classical maps reproduce, by name: "one number", "one per qubit", "one per
            tensor", "one per coordinate" (means over the run), "frozen at step 0", "sine" (amplitude * sin a), "sine
            and constant", "one-angle series". May be negative where a map is worse than none.
        sine_amplitude: of the best sine.
        offset, spread: mean and standard deviation of s.
        learning_rate_factor: 1 + lambda * offset, with scale="adam".
        truncation: None where there is no series.
        device_error: mean square distance of the circuit as it ran (calibrated, sampled or noisy) from the same circuit
            simulated exactly, as a share of the power; None where it cannot be known.
        norm_ratio: medians over recorded steps of ||lambda Q|| over Adam's step; None where nothing was stepped.
        effective: share of touched coordinates with |s| > 0.01 and Q != 0; None likewise.
        points: pairs (s, s of the best classical map) of a sample of coordinates, and the map's name.
        circuits, shots: run by the audit itself.
        few: whether there are fewer blocks of weights than 10 for each term of the one-angle series, which then fits
            some of the multi-angle part too: single is an upper bound, multi a lower one.
        sampled: whether s is known by runs of the circuit alone, not by its series.
    """

    identity: str
    settings: dict[str, Any]
    steps: list[int]
    coordinates: tuple[int, int]
    shares: Shares
    intervals: dict[str, tuple[float, float]]
    per_qubit: list[Shares]
    per_tensor: dict[str, Shares]
    over_time: dict[int, Shares]
    uniform: Shares | None
    maps: dict[str, float]
    sine_amplitude: float
    offset: float
    spread: float
    learning_rate_factor: float
    truncation: Truncation | None
    device_error: float | None
    norm_ratio: float | None
    effective: float | None
    points: tuple[str, list[tuple[float, float]]] = field(repr=False)
    circuits: int = 0
    shots: int = 0
    sampled: bool = False
    few: bool = False
    ran_on: str = ""
