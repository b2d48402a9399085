"""The findings of an audit as plain values, from which pages are made. They are saved as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_qsgd.files import atomic_write, structured


@dataclass(frozen=True)
class Shares:
    """Shares of the mean square of a modulation, or of an output, over recorded angles. They add up to 1.

    Attributes:
        constant: share of the squared mean of each qubit, a number that needs no circuit.
        single: share that the best sum of functions of one angle each adds (by least squares).
        multi: share that depends on several angles together.
        rest: share that is not a function of the angles, such as shot noise, hardware noise, random numbers or a table.
        power: the mean square, averaged over qubits.
        rows: number of recorded blocks of angles.
        weight: number of values of the model that these represent; 0 if they are all values.
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
    """A short trigonometric series in place of the modulation, found by forward selection.

    Attributes:
        error: mean square that may be left, as a share of the modulation's.
        terms: number of products of sines and cosines, including the constant, summed over qubits; None if ``error``
            was not reached.
        candidates: number of terms of the whole series, summed over qubits.
        left: share that is left on angles that the selection did not see.
        largest: largest number of angles in a term.
    """

    error: float
    terms: int | None
    candidates: int
    left: float
    largest: int


@dataclass(frozen=True)
class PerturbationFindings:
    """Findings about an optimizer's perturbation along one training run.

    Attributes:
        identity: identity of the perturbation, as in checkpoints.
        ran_on: the sampler with its device and shots, or the calibration; "" without a circuit.
        settings: settings of the optimizer by name: quantum_weight, scale, scope, target, coupling, lr.
        steps: recorded optimizer steps, in order.
        coordinates: number of touched coordinates, and how many of them were recorded.
        shares: shares of all recorded values.
        intervals: 95 % intervals of the four shares, from resampling recorded blocks; empty if all blocks of the model
            were recorded.
        per_qubit: shares by qubit, in order.
        per_tensor: shares by the parameter's name, with projections of that tensor's angles only. Tensors with too few
            recorded blocks are left out.
        over_time: shares by the first optimizer step of each span, with projections of that span's angles only.
        uniform: shares for independent, uniform angles; None without a series.
        maps: share of the power that classical maps reproduce, by name: "one number", "one per qubit", "one per
            tensor", "one per coordinate" (means over the run), "frozen at step 0", "sine" (amplitude * sin a), "sine
            and constant", "one-angle series". It is negative if a map is worse than 0.
        sine_amplitude: amplitude of the best sine.
        offset, spread: mean and standard deviation of s.
        learning_rate_factor: 1 + lambda * offset, for scale="adam".
        truncation: a short series for s; None without a series.
        device_error: mean square distance of the circuit as it ran (calibrated, sampled or noisy) from the exactly
            simulated circuit, as a share of the power; None if unknown.
        norm_ratio: median over recorded steps of the norm of lambda * Q over that of Adam's step; None without steps.
        effective: median share of touched coordinates with |s| > 0.01 and Q != 0; None without steps.
        points: name of the best classical map, and pairs (s, value of that map) for a sample of coordinates.
        circuits, shots: number of circuits and shots that the audit ran.
        few: whether there are fewer than 10 blocks for each term of the one-angle series. The series then also fits
            some of the multi-angle part, so that single is an upper bound and multi a lower bound.
        sampled: whether s is known only from runs of the circuit, and not from a series.
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


@dataclass(frozen=True)
class Metric:
    """The metric of the trained model on validation data.

    Attributes:
        name: name under which the metric is logged.
        mode: "max" if higher is better, or "min".
        value: value of the unchanged model.
        examples: number of examples that are compared one by one, as right or wrong; 0 if the metric is not their
            accuracy.
        chance: share of the most common label among them, the accuracy of always naming it; None without examples.
    """

    name: str
    mode: Literal["max", "min"]
    value: float
    examples: int
    chance: float | None = None


@dataclass(frozen=True)
class Replacement:
    """The trained model with a classical replacement of a part, without further training.

    Attributes:
        name: "constant", "single-angle part", "classical series", "no Phi" or "linear part", with an addition if all
            such layers are replaced at once.
        terms: number of terms for each output (for attention, each head), including the constant.
        reproduced: share of the part's mean square over validation data that it reproduces; None if unknown.
        value: the metric with the replacement.
        lost, gained: number of examples that are right only without it, and only with it; both 0 if
            ``Metric.examples`` is 0.
    """

    name: str
    terms: int
    reproduced: float | None
    value: float
    lost: int
    gained: int


@dataclass(frozen=True)
class LayerFindings:
    """Findings about a circuit layer in a trained model, over the inputs from validation data.

    Attributes:
        name: name of the layer in the module.
        circuit: the circuit in words.
        engine: where the circuit runs.
        rows: number of inputs from validation data, and how many of them were sampled.
        outputs: names of the outputs, in order.
        shares: shares of all outputs, weighted by their power; None if unknown, for a reason in ``notes``.
        per_output: shares of each output, in order; empty if unknown.
        terms: number of terms of the circuit's exact series in its angles; 0 without a series.
        metric: metric of the whole model.
        replacements: replacements that were tried, in the order of their terms.
        notes: sentences about what could not be done.
        compared: name of the classical replacement that reproduces most; "" without one.
        points: pairs (output, output of that replacement) for a sample of rows and outputs.
        circuits, shots: number of circuits and shots that the audit ran; None if the layer does not count them.
        untried: reasons by the names of replacements that could not be tried.
    """

    name: str
    circuit: str
    engine: str
    rows: list[int]
    outputs: list[str]
    shares: Shares | None
    per_output: list[Shares]
    terms: int
    metric: Metric
    replacements: list[Replacement]
    notes: list[str]
    compared: str
    points: list[list[float]] = field(repr=False)
    circuits: int | None = None
    shots: int | None = None
    untried: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadFindings:
    """What a quantum head adds to a score s, gain * Phi(scale * s), over the scores from validation data.

    Attributes:
        head: number of the head.
        constant, linear, curved: shares of the mean square: of the squared mean, which cancels in the softmax; of what
            a line adds (by least squares); and of the rest. They add up to 1, or are 0 if the head adds nothing.
        power: the mean square, in squared units of score.
        factor: factor by which the line multiplies scores, 1 + its slope.
        score_spread: standard deviation of the scores.
        rows: number of sampled scores.
        curve: rows (score, added value without its mean, line) at evenly spaced scores.
        density: counts of the scores in bins of equal width over the same range.
    """

    head: int
    constant: float
    linear: float
    curved: float
    power: float
    factor: float
    score_spread: float
    rows: int
    curve: list[list[float]] = field(repr=False)
    density: list[int] = field(repr=False)


@dataclass(frozen=True)
class AttentionFindings:
    """Findings about a quantum attention layer in a trained model.

    Attributes:
        name: name of the layer in the module.
        source, readout: those of its :class:`lightning_qsgd.quantum.ScoreSeries`.
        engine: where its circuits run.
        terms: number of terms of a head's series in its angle, without the constant.
        heads: heads with a Phi, in order.
        metric: metric of the whole model.
        replacements: replacements in this layer, and, if there are several layers, in all of them at once.
        layers: number of quantum attention layers.
        notes: sentences about what could not be done.
    """

    name: str
    source: str
    readout: str
    engine: str
    terms: int
    heads: list[HeadFindings]
    metric: Metric
    replacements: list[Replacement]
    layers: int
    notes: list[str]


FORMAT = 1


Findings = PerturbationFindings | LayerFindings | AttentionFindings


def save_findings(findings: Mapping[str, Findings], path: Path) -> None:
    """Write findings as JSON, completely or not at all. Numbers that are not finite become null.

    Args:
        findings: findings by the name of their subject.
        path: path of the file.

    Raises:
        OSError: if the file cannot be written.
    """
    plain = {key: _finite(asdict(found)) for key, found in findings.items()}
    with atomic_write(path) as file:
        json.dump({"format": FORMAT, "findings": plain}, file, indent=1, allow_nan=False)
        file.write("\n")


def load_findings(path: str | Path) -> dict[str, Findings]:
    """Read the ``findings.json`` of an audit.

    Args:
        path: path of the file.

    Returns:
        The findings by name: "perturbation", or the name of a layer in the model. Numbers that were not finite are NaN.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it does not hold findings.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No {path}; make one with: lightning-qsgd audit --config FILE")
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise ValueError("another version wrote it")
        return {name: structured(found, _kind(found), math.nan) for name, found in values["findings"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold findings of an audit ({error!r}); run the audit again") from error


def _kind(values: dict[str, Any]) -> type[Findings]:
    return PerturbationFindings if "identity" in values else AttentionFindings if "heads" in values else LayerFindings


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
