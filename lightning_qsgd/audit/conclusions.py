"""Sentences of an audit, made from its numbers by rules."""

import math
from typing import Literal

from scipy.stats import binomtest

from lightning_qsgd.audit.findings import (
    AttentionFindings,
    LayerFindings,
    Metric,
    PerturbationFindings,
    Replacement,
    Shares,
)
from lightning_qsgd.report.numbers import Numbers, count, listed, number, percent, unit_of

MARGIN = 0.01  # loss that does not matter: a point of accuracy, or 1 % of another metric's value
MEANING = {
    "constant": "the layer's inputs do not matter, a constant is enough",
    "single-angle part": "what several angles do together is not used",
    "classical series": "what several angles do together may be used, but a classical series of {terms} terms does it",
}
NAMES = {"constant": "constant", "single": "single-angle", "multi": "multi-angle", "rest": "rest"}
NEGLIGIBLE = 0.01  # of Adam's step
NEARLY_ALL = 0.95  # of the power
SOME = 0.05
#: Maps in words, from simple to complex.
MAPS = {
    "one number": "one constant for all touched coordinates",
    "one per qubit": "one constant for each place in a block",
    "one per tensor": "one constant for each tensor",
    "sine": "a sine of each weight (Eq. 2 of the paper)",
    "sine and constant": "a constant and a sine of each weight",
    "frozen at step 0": "a table of numbers that is frozen at step 0",
    "one per coordinate": "a fixed table of numbers, one for each coordinate",
    "one-angle series": "a sum of functions of one weight each",
}


def conclude(findings: PerturbationFindings) -> list[str]:
    """The conclusions of an audit of a perturbation, in sentences, the most important one first.

    The first rule that applies decides the main sentence: the power is 0; a classical map reproduces 95 % of it (the
    first such map in :data:`MAPS`); most of it is not a function of the weights; otherwise the best map is named.
    """
    sentences = [_main(findings)]
    if findings.shares.power and findings.truncation is None:
        why = "s is known from runs of the circuit alone" if findings.sampled else "the perturbation has no series"
        sentences[0] = f"A short classical series was not tried, because {why}. {sentences[0]}"
    to_gradient = findings.settings.get("target") == "gradient"
    if not to_gradient and findings.norm_ratio is not None and findings.norm_ratio < NEGLIGIBLE:
        sentences.insert(
            0,
            f"The perturbation is too small to matter: {percent(findings.norm_ratio)} of Adam's step (median over the "
            "run).",
        )
    multi, series = findings.shares.multi, findings.truncation
    if findings.shares.power and percent(multi) == percent(0):
        sentences.append("Nothing in it depends on several weights together.")
    elif findings.shares.power:
        sentences.append(f"{percent(multi)} of it depends on several weights together.")
    if findings.shares.power and findings.few:
        sentences.append(
            "With so few blocks the one-angle series may have fitted some of that kind: the share is a lower bound."
        )
    if findings.shares.power and multi >= SOME and series is not None and series.terms is not None:
        terms = f"{series.terms:,} of {series.candidates:,} terms"
        but = "" if percent(series.left) == percent(0) else f" but {percent(series.left)}"
        sentences.append(f"A classical series of {terms} gives all of it{but}.")
    if findings.device_error is not None and findings.device_error > NEGLIGIBLE:
        on = f" ({findings.ran_on})" if findings.ran_on else ""
        sentences.append(
            f"As it ran{on}, the circuit is {percent(findings.device_error)} of its power from the exact one (shots, "
            "or a device's noise); what of that is frozen for the run counts as constant, single- and multi-angle."
        )
    return sentences


def _main(findings: PerturbationFindings) -> str:
    shares, maps = findings.shares, findings.maps
    if not shares.power:
        return "The perturbation is 0: it does nothing."
    name = simplest(maps)
    if name is not None:
        frozen, told = maps["frozen at step 0"], ("frozen at step 0", "one per coordinate")
        same = f" Frozen at step 0, its values reproduce {percent(frozen)}." if frozen >= NEARLY_ALL else ""
        return f"The perturbation is {MAPS[name]}, to {percent(maps[name])} of its power.{'' if name in told else same}"
    if shares.rest > 0.5:
        return f"The perturbation is mostly random: {percent(shares.rest)} of its power is no function of the weights."
    best = max(MAPS, key=lambda map_name: maps[map_name])
    return (
        f"No simple classical map is the perturbation: the best, {MAPS[best]}, reproduces {percent(maps[best])} of its "
        "power."
    )


def simplest(maps: dict[str, float], enough: float = NEARLY_ALL) -> str | None:
    """The first map that reproduces at least ``enough`` of the power; None if none does."""
    return next((name for name in MAPS if maps[name] >= enough), None)


def loss(metric: Metric, replacement: Replacement) -> float:
    """How much worse the model is with the replacement, in the metric's unit; negative if it is better."""
    difference = metric.value - replacement.value
    return difference if metric.mode == "max" else -difference


def interval(metric: Metric, replacement: Replacement) -> tuple[float, float] | None:
    """The 95 % interval of the loss over validation examples; None if they were not compared one by one.

    It is Wald's interval for paired proportions with half an example added to each of the four cells (Agresti and Min
    2005, doi:10.1002/sim.1781). It does not cover other seeds.
    """
    if not metric.examples:
        return None
    n, lost, gained = metric.examples + 2, replacement.lost + 0.5, replacement.gained + 0.5
    middle, error = (lost - gained) / n, math.sqrt(lost + gained - (lost - gained) ** 2 / n) / n
    return middle - 1.96 * error, middle + 1.96 * error


def judge(metric: Metric, replacement: Replacement) -> Literal["enough", "not enough", "unclear"]:
    """Whether the model with the replacement is as good, up to the margin of 1 point (or 1 %).

    It is "enough" if the interval ends within the margin, "not enough" if the interval lies above 0, and otherwise
    "unclear". Without an interval, the loss decides. A metric that is not finite is never enough.
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
    """A sentence if the model is not clearly better than the most common label (one-sided binomial test, 95 %)."""
    if metric.chance is None or not metric.examples or not math.isfinite(metric.value):
        return None
    right = round(metric.value * metric.examples)
    if binomtest(right, metric.examples, metric.chance, alternative="greater").pvalue < 0.05:
        return None
    return (
        f"the model itself, at {percent(metric.value)} {metric.name}, is not clearly better than always naming the "
        f"commonest class ({percent(metric.chance)}), so the audit cannot tell what its parts are "
        "used for. Train it first."
    )


def numbers_of(metric: Metric) -> Numbers:
    """The number format of the metric."""
    return Numbers("%" if metric.examples else unit_of(metric.name))


def outcome(metric: Metric, replacement: Replacement) -> str:
    """A clause such as "the model loses 0.10 points of 95.30 % val/accuracy (95 % interval of the loss: ...)"."""
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
    return said + (f" (95 % interval of the loss: {numbers.interval(*ends)})" if ends else "")


def untried(found: LayerFindings) -> str:
    """A sentence about the classical replacements that could not be tried, and why; "" if all were tried."""
    tried = [replacement.name for replacement in found.replacements]
    missing = [f"the {name} ({found.untried.get(name, 'see below')})" for name in MEANING if name not in tried]
    return f"Could not be tried: {listed(missing)}." if missing else ""


def layer_conclusion(found: LayerFindings) -> str:
    """What a circuit layer is needed for, preceded by what could not be tried."""
    if not found.replacements:
        return f"Nothing can be said of {found.name}: {' '.join(found.notes)}"
    if why := untrained(found.metric):
        return f"Nothing can be said of {found.name}: {why}"
    return " ".join(filter(None, [untried(found), _of_layer(found)]))


def _of_layer(found: LayerFindings) -> str:
    for replacement in found.replacements:
        if judge(found.metric, replacement) == "enough":
            meaning = MEANING[replacement.name].format(terms=replacement.terms)
            return f"{_with(found.name, replacement)} {outcome(found.metric, replacement)}: {meaning}."
    best = min(found.replacements, key=lambda replacement: _order(loss(found.metric, replacement)))
    if judge(found.metric, best) == "unclear":
        return f"{_with(found.name, best)} {outcome(found.metric, best)}: {_too_few(found.metric)}."
    with_best = f"with the best of them, the {best.name}, {outcome(found.metric, best)}"
    own = f" The layer itself is a classical series of {found.terms:,} terms." if found.terms else ""
    if len(found.replacements) == len(MEANING):
        return f"No classical replacement that was tried is enough for {found.name}: {with_best}.{own}"
    if len(found.replacements) == 1:
        with_best = f"with the {best.name}, {outcome(found.metric, best)}"
    return f"What could be tried is not enough for {found.name}, and the rest stays open: {with_best}.{own}"


def attention_conclusion(found: AttentionFindings) -> list[str]:
    """A sentence about what a layer's Phi is needed for, and, if there are several layers, one about all of them."""
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
    return f"With {_in_place(replacement)} in place of {name},"


def _in_place(replacement: Replacement) -> str:
    article = {"constant": "a constant", "classical series": "a refitted classical series"}
    return article.get(replacement.name, f"its {replacement.name}")


def _too_few(metric: Metric) -> str:
    return f"{count(metric.examples, 'validation example')} are too few to tell whether that is enough"


def _order(lost: float) -> float:
    return lost if math.isfinite(lost) else math.inf


def in_words(shares: Shares) -> str:
    """The four shares in a sentence."""
    return listed([f"{percent(share)} {NAMES[part]}" for part, share in shares.parts().items()])


def conclusion(found: PerturbationFindings | LayerFindings | AttentionFindings) -> list[str]:
    """Sentences, the most important first."""
    if isinstance(found, PerturbationFindings):
        return conclude(found)
    return [layer_conclusion(found)] if isinstance(found, LayerFindings) else attention_conclusion(found)


def summary(found: PerturbationFindings | LayerFindings | AttentionFindings) -> list[str]:
    """Three sentences for any reader: what was audited, what was found, and how certain it is."""
    if isinstance(found, PerturbationFindings):
        touched, recorded = found.coordinates
        when = f"at {count(len(found.steps), 'optimizer step')}, for {recorded:,} of {touched:,} weights"
        what = f"In one training run, the factor s that scales the perturbation was recorded {when}"
        half = max(((high - low) / 2 for low, high in found.intervals.values()), default=None)
        sure = "all weights were recorded"
        if half is not None:
            sure = (
                f"recording a sample of the weights leaves the shares uncertain by {number(100 * half, '.2f')} points"
            )
        elif recorded < touched:
            sure = "the shares are estimates from a sample"
        sure = f"{sure[0].upper()}{sure[1:]}; nothing follows for other runs, or for the effect on training."
        return [f"{what}, to see which simpler maps give the same.", conclude(found)[0], sure]
    value = f"{numbers_of(found.metric).full(found.metric.value)} {found.metric.name}"
    if isinstance(found, LayerFindings):
        tried = listed([_in_place(replacement) for replacement in found.replacements])
        what = f"the circuit layer {found.name} was {f'replaced by {tried}' if tried else 'not replaced'}"
    else:
        what = (
            f"the quantum part (Phi) of {found.name} was {'first removed, then made linear' if found.heads else 'kept'}"
        )
    what = f"In one trained model, which reaches {value}, {what}."
    sure = "Examples could not be compared one by one, so there is no interval; this is one model, of one seed."
    if found.metric.examples:
        examples = count(found.metric.examples, "validation example")
        sure = f"Intervals are over {examples} of this one model; another training may come out otherwise."
    return [what, " ".join(conclusion(found)), sure]


def steps(findings: PerturbationFindings) -> str:
    """The recorded optimizer steps in words."""
    recorded = findings.steps
    if len(recorded) <= 1:
        return f"one recorded step ({recorded[0]})" if recorded else "no recorded step"
    return f"{len(recorded):,} recorded steps, from {recorded[0]:,} to {recorded[-1]:,}"
