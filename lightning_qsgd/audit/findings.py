"""What an audit found, as plain values: what pages are made from. They are saved as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_qsgd.files import atomic_write, structured


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


@dataclass(frozen=True)
class Metric:
    """How good the trained model is on validation data.

    Attributes:
        name: as it is logged.
        mode: "max": more is better; "min".
        value: of the model as it is.
        examples: how many were compared one by one, right or wrong; 0 where that cannot be seen, or is not the metric.
        chance: share of the commonest label among them: what a model has that always names it; None without them.
    """

    name: str
    mode: Literal["max", "min"]
    value: float
    examples: int
    chance: float | None = None


@dataclass(frozen=True)
class Replacement:
    """The same trained model with something else in a part's place; nothing is trained on.

    Attributes:
        name: "constant", "single-angle part", "classical series", "no Phi", "linear part"; with an addition where it
            is of all such layers at once.
        terms: numbers behind each output (attention: each head), the constant included.
        reproduced: share of the part's mean square over validation data that it reproduces; None where not known.
        value: the metric with it.
        lost, gained: examples that are right only without it, or only with it; both 0 where ``Metric.examples`` is 0.
    """

    name: str
    terms: int
    reproduced: float | None
    value: float
    lost: int
    gained: int


@dataclass(frozen=True)
class LayerFindings:
    """A circuit layer in a trained model: what its outputs are made of over the inputs that occur.

    Attributes:
        name: its place in the module.
        circuit: in words.
        engine: where it runs.
        rows: inputs that occurred over validation data, and how many of them were looked at.
        outputs: their names, in order.
        shares: of all outputs, weighted by their power; None where they are not known, ``notes`` says why.
        per_output: in order; empty likewise.
        terms: of the circuit's own series in its angles, which is exact; 0 where it has none.
        metric: of the whole model.
        replacements: in the order of their terms.
        notes: sentences on what could not be done.
        compared: the classical replacement that reproduces most; "" where there is none.
        points: pairs (output, that replacement's) of a sample of rows and outputs.
        circuits, shots: run by the audit; None where nothing counts them.
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
    """What one quantum head adds to a score s, gain * Phi(scale * s), over the scores that occur.

    Attributes:
        head: its number.
        constant, linear, curved: shares of the mean square: squared mean, which cancels in the softmax; what a line
            adds (least squares); and the rest. They add up to 1, or are 0 where the head adds nothing.
        power: the mean square itself, in squared units of score.
        factor: what the line multiplies scores by: 1 + its slope.
        score_spread: standard deviation of the scores.
        rows: scores behind it.
        curve: rows (score, what is added without its mean, the line) at evenly spaced scores.
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
    """A quantum attention layer in a trained model.

    Attributes:
        name: its place in the module.
        source, readout: of its :class:`lightning_qsgd.quantum.ScoreSeries`.
        engine: where its circuits run.
        terms: of a head's series in its one angle, without the constant.
        heads: those with a Phi, in order.
        metric: of the whole model.
        replacements: in this layer, then in all of them at once where there are several.
        layers: how many there are.
        notes: sentences on what could not be done.
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
    """Write findings, completely or not at all; numbers that are not finite become null.

    Args:
        findings: dataclasses of plain values, by key.
        path: of the file.

    Raises:
        OSError: if it cannot be written.
    """
    plain = {key: _finite(asdict(found)) for key, found in findings.items()}
    with atomic_write(path) as file:
        json.dump({"format": FORMAT, "findings": plain}, file, indent=1, allow_nan=False)
        file.write("\n")


def load_findings(path: str | Path) -> dict[str, Findings]:
    """Read the ``findings.json`` of an audit.

    Args:
        path: of the file.

    Returns:
        The findings by name: "perturbation", or a layer's place in the model. A number that was not finite is NaN.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else.
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
        raise ValueError(f"{path} holds no findings of an audit ({error!r}); run the audit again") from error


def _kind(values: dict[str, Any]) -> type[Findings]:
    return PerturbationFindings if "identity" in values else AttentionFindings if "heads" in values else LayerFindings


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
