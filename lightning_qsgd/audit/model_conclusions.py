"""What follows from replacing a part of a trained model, by rules."""

import math
from typing import Literal

from scipy.stats import binomtest

from lightning_qsgd.audit.model_findings import AttentionFindings, LayerFindings, Metric, Replacement
from lightning_qsgd.comparison.numbers import Numbers, count, minus, number, percent
from lightning_qsgd.comparison.spec import Metric as Printed

MARGIN = 0.01  # what may be lost: a point of accuracy, or 1 % of another metric's value
MEANING = {
    "constant": "what the layer is asked does not matter, a constant is enough",
    "single-angle part": "what several angles do together is not used",
    "classical series": "what several angles do together may be used, but a classical series of {terms} terms does it",
}


def loss(metric: Metric, replacement: Replacement) -> float:
    """How much worse the model is with the replacement, in the metric's unit; below 0 it is better."""
    difference = metric.value - replacement.value
    return difference if metric.mode == "max" else -difference


def interval(metric: Metric, replacement: Replacement) -> tuple[float, float] | None:
    """95 % interval of the loss over validation examples; None where they were not compared one by one.

    Agresti and Min (2005, doi:10.1002/sim.1781): Wald's interval for paired proportions, half an example added to each
    of the four cells. It says nothing about other seeds.
    """
    if not metric.examples:
        return None
    n, lost, gained = metric.examples + 2, replacement.lost + 0.5, replacement.gained + 0.5
    middle, error = (lost - gained) / n, math.sqrt(lost + gained - (lost - gained) ** 2 / n) / n
    return middle - 1.96 * error, middle + 1.96 * error


def judge(metric: Metric, replacement: Replacement) -> Literal["enough", "not enough", "unclear"]:
    """Whether the model with the replacement is as good, up to the margin of 1 point (or 1 %).

    "enough": the interval ends within the margin; "not enough": it lies above 0; "unclear": neither. Without an
    interval the loss itself decides. A metric that is not finite is never enough.
    """
    lost, ends = loss(metric, replacement), interval(metric, replacement)
    if not math.isfinite(lost):
        return "not enough"
    if ends is None:
        return "enough" if lost <= MARGIN * abs(metric.value) else "not enough"
    if ends[1] <= MARGIN:
        return "enough"
    return "not enough" if ends[0] > 0 else "unclear"


def untrained(metric: Metric) -> str | None:
    """A sentence where the model is not clearly better than the commonest label (binomial, 95 %, one-sided)."""
    if metric.chance is None or not metric.examples or not math.isfinite(metric.value):
        return None
    right = round(metric.value * metric.examples)
    if binomtest(right, metric.examples, metric.chance, alternative="greater").pvalue < 0.05:
        return None
    return (
        f"the model itself, at {percent(metric.value)} {metric.name}, is not clearly better than always naming the "
        f"commonest class ({percent(metric.chance)}), so that it cannot be seen what its parts are used for. Train it "
        "first."
    )


def numbers_of(metric: Metric) -> Numbers:
    """How the metric is printed."""
    return Numbers(Printed(MARGIN, metric.name, metric.mode, unit="%" if metric.examples else None))


def outcome(metric: Metric, replacement: Replacement) -> str:
    """Such as "the model loses 0.10 points of 95.30 % val/accuracy (95 % interval -0.30 to 0.50)"."""
    numbers, lost, ends = numbers_of(metric), loss(metric, replacement), interval(metric, replacement)
    if not math.isfinite(lost):
        return f"{metric.name} is not finite any more"
    whole = f"{numbers.with_unit(numbers.value(metric.value))} {metric.name}"
    verb = "loses" if lost >= 0 else "gains"
    size = numbers.with_unit(numbers.size(lost), difference=True)
    what = f"{verb} {size}" if metric.mode == "max" else f"is {size} {'worse' if lost >= 0 else 'better'}"
    said = f"the model loses nothing of {whole}" if lost == 0 else f"the model {what} of {whole}"
    if metric.mode == "min":
        said = f"the model is as good, at {whole}" if lost == 0 else f"the model {what}, from {whole}"
    return said + (f" (95 % interval of the loss: {minus(numbers.interval(*ends))})" if ends else "")


def layer_conclusion(found: LayerFindings) -> str:
    """One sentence (two at most) on what a circuit layer is needed for."""
    if not found.replacements:
        return f"Nothing can be said of {found.name}: {' '.join(found.notes)}"
    if why := untrained(found.metric):
        return f"Nothing can be said of {found.name}: {why}"
    for replacement in found.replacements:
        if judge(found.metric, replacement) == "enough":
            meaning = MEANING[replacement.name].format(terms=replacement.terms)
            return f"{_with(found.name, replacement)} {outcome(found.metric, replacement)}: {meaning}."
    best = min(found.replacements, key=lambda replacement: _order(loss(found.metric, replacement)))
    if judge(found.metric, best) == "unclear":
        return f"{_with(found.name, best)} {outcome(found.metric, best)}: {_too_few(found.metric)}."
    said = f"No classical replacement that was tried is enough for {found.name}: with the best of them, the "
    said += f"{best.name}, {outcome(found.metric, best)}."
    own = f" The layer itself is a classical series of {found.terms:,} terms." if found.terms else ""
    return said + own


def attention_conclusion(found: AttentionFindings) -> list[str]:
    """A sentence on what a layer's Phi is needed for, and one on all layers at once where there are several."""
    if not found.replacements:
        return [f"Nothing can be said of {found.name}: {' '.join(found.notes)}"]
    if why := untrained(found.metric):
        return [f"Nothing can be said of {found.name}: {why}"]
    groups = [found.replacements[k : k + 2] for k in range(0, len(found.replacements), 2)]
    places = [f"in {found.name}", f"in all {count(found.layers, 'layer')} at once"]
    return [_of_phi(found, none, line, place) for (none, line), place in zip(groups, places, strict=False)]


def _of_phi(found: AttentionFindings, none: Replacement, line: Replacement, place: str) -> str:
    metric = found.metric
    if judge(metric, none) == "enough":
        return f"Without Phi {place}, {outcome(metric, none)}: what circuits add to the scores is not used."
    said = f"With Phi's linear part alone {place}, {outcome(metric, line)}"
    if judge(metric, line) == "enough":
        factors = sorted(head.factor for head in found.heads)
        low, high = (number(f, ".3g") for f in (factors[0], factors[-1]))
        here = f", scores times {low if low == high else f'{low} to {high}'}" if place.endswith(found.name) else ""
        return f"{said}: Phi acts as a temperature{here}."
    if judge(metric, line) == "unclear":
        return f"{said}: {_too_few(metric)}."
    return f"{said}: Phi is used as a curve, a series of {found.terms} terms in one angle."


def _with(name: str, replacement: Replacement) -> str:
    article = {"constant": "a constant", "classical series": "a refitted classical series"}
    what = article.get(replacement.name, f"its {replacement.name}")
    return f"With {what} in place of {name},"


def _too_few(metric: Metric) -> str:
    return f"{count(metric.examples, 'validation example')} are too few to tell whether that is enough"


def _order(lost: float) -> float:
    return lost if math.isfinite(lost) else math.inf
