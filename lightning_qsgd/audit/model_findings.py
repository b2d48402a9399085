"""What an audit found of the quantum parts inside of a model, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lightning_qsgd.audit.findings import Shares


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
