"""Sentences of a report, made from its numbers by rules."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lightning_qsgd.comparison.analysis import NEGLIGIBLE, Analysis, ArmAnalysis, ContrastAnalysis
from lightning_qsgd.comparison.arms import is_layer_twin
from lightning_qsgd.comparison.pairing import rank
from lightning_qsgd.report.numbers import count, listed, number
from lightning_qsgd.twin_names import MEANINGS

MOST_NAMES = 4  # in a sentence
OPEN = "It remains open whether {} is better than {}"


@dataclass(frozen=True)
class Column:
    """A column of the table of live checks.

    Attributes:
        heading: heading of the column.
        show: formats a number, or None.
        meaning: a sentence that explains the numbers.
    """

    heading: str
    show: Callable[[float | None], str]
    meaning: str


def _hundredfold(ratio: float | None) -> str:
    return number(None if ratio is None else 100 * ratio)


WHOLE = partial(number, form=",.0f")
#: The statistics of a perturbation that a report shows, by the names under which PerturbationMonitor logs them.
LIVE = {
    "norm_ratio": Column(
        "norm ratio (%)", _hundredfold, "Norm ratio: size of the perturbation over the size of Adam's step."
    ),
    "effective": Column("effective", WHOLE, "Effective: touched coordinates with |s| > 0.01 and Q other than 0."),
    "touched": Column("touched", WHOLE, "Touched: coordinates that the perturbation may move."),
    "offset": Column("offset", number, "Offset: mean of s."),
    "spread": Column("spread", number, "Spread: standard deviation of s."),
    "learning_rate_factor": Column(
        "learning-rate factor",
        number,
        "Learning-rate factor: 1 + λ \u00d7 offset, where the perturbation is Adam's step times λ s on all "
        "coordinates; a dash elsewhere.",
    ),
}


def summary(analysis: Analysis) -> list[str]:
    """Three sentences for any reader: what was compared, the verdict, and how certain it is or what it costs.

    The verdict is that of the gatekeeper, or of the only contrast. Without either, verdicts are counted.
    """
    spec = analysis.results.comparison
    names = f" ({listed(list(analysis.arms))})" if len(analysis.arms) <= MOST_NAMES else ""
    ways = f"{count(len(analysis.arms), 'way')} of training{names} {'was' if len(analysis.arms) == 1 else 'were'}"
    better = "higher" if spec.metric.mode == "max" else "lower"
    seeds = count(len(spec.seeds.evaluation), "random seed")
    compared = f"{ways} compared by {spec.metric.name} ({better} is better), each with {seeds}."
    if not analysis.runs():
        runs = count(analysis.expected, "evaluation run")
        return [compared, f"So far 0 of {runs} have finished.", "So there is no verdict."]
    lead = [item for item in analysis.contrasts if item.contrast.name == spec.gatekeeper]
    lead = lead or (analysis.contrasts if len(analysis.contrasts) == 1 else [])
    found = _finding(analysis, lead[0]) if lead else _counts(analysis, analysis.contrasts)
    sure = []
    if lead:
        item, p = lead[0], lead[0].judgement.paired
        if not item.judgement.diverged and p.n > 1 and p.ties < p.n:
            level = f"{100 * (1 - p.alpha):.3g} % interval"
            ends = analysis.numbers.with_unit(analysis.numbers.interval(p.low, p.high), difference=True)
            sure.append(f"the {level} of {item.contrast.name} is {ends} ({p.n} pairs of runs)")
        sure += _cost(analysis, [item.contrast.arm])
    else:
        sure += _cost(analysis, list(analysis.arms))
    weak = list(dict.fromkeys(item.judgement.why_exploratory for item in lead or analysis.contrasts))
    if analysis.so_far:
        sure.append(f"these are results so far ({len(analysis.runs())} of {analysis.expected} evaluation runs)")
    elif any(weak):
        why = f" ({weak[0]})" if len(weak) == 1 else ""
        sure.append(f"{'this' if all(weak) else 'some of this'} is exploratory{why}")
    ran = f"{analysis.count('finished')} of {count(analysis.expected, 'evaluation run')} finished"
    said = "; ".join(sure) or ran
    return [compared, found, f"{said[0].upper()}{said[1:]}."]


def _finding(analysis: Analysis, item: ContrastAnalysis) -> str:
    arm, other, verdict = item.contrast.arm, item.contrast.against, item.judgement.verdict
    numbers, p = analysis.numbers, item.judgement.paired
    if item.judgement.diverged:
        why = f"{item.judgement.diverged}, so the size of the difference means nothing"
        return (
            f"{arm} is {verdict} than {other}: {why}."
            if verdict != "inconclusive"
            else f"{OPEN.format(arm, other)}: {why}."
        )
    if p.n < 2:
        few = f"{count(p.n, 'pair')} of runs {'is' if p.n == 1 else 'are'} too few"
        return f"{few} to compare {arm} with {other}."
    if p.ties == p.n:
        return f"{arm} gave exactly the same values as {other}: all {p.n} paired differences are zero."
    if verdict == "equivalent":
        margin = numbers.amount(analysis.results.comparison.metric.margin)
        return f"{arm} is equivalent to {other}: the difference, {numbers.by(p.mean)}, is within \u00b1{margin}."
    if verdict == "inconclusive":
        return f"{OPEN.format(arm, other)}: the mean difference is {numbers.by(p.mean)}."
    less = ", less than the margin" if "margin" in verdict else ""
    claim = analysis.claims.get(arm) if verdict.startswith("better") else None
    but = f", but not clearly better than {listed(list(claim.fails))}" if claim is not None and claim.fails else ""
    return f"{arm} is {verdict.split()[0]} than {other} by {numbers.amount(p.mean)} on average{less}{but}."


def _counts(analysis: Analysis, items: list[ContrastAnalysis], which: str = "") -> str:
    if not items:
        return "No contrast was declared, so there are no verdicts; all differences below are descriptive."
    names: dict[str, list[str]] = {}
    for item in items:
        zero = item.judgement.verdict == "equivalent" and item.judgement.paired.ties == item.judgement.paired.n
        verdict = "with all paired differences zero" if zero else item.judgement.verdict
        names.setdefault(verdict, []).append(item.contrast.name)
    found = []
    for verdict, chosen in sorted(names.items(), key=lambda pair: -len(pair[1])):
        shown = verdict.startswith(("better", "worse", "with")) and len(chosen) <= MOST_NAMES
        found.append(f"{len(chosen)} {verdict}{f' ({listed(chosen)})' if shown else ''}")
    return f"Of {count(len(items), f'{which}declared contrast')}, judged together: {listed(found)}."


def _cost(analysis: Analysis, names: list[str]) -> list[str]:
    """The training time of the most expensive of some arms, relative to the baseline's."""
    ratios = {n: ratio for n in names if n != analysis.baseline and (ratio := analysis.arms[n].seconds_ratio)}
    if not ratios:
        return []
    name = max(ratios, key=lambda n: ratios[n])
    arm = name if len(names) == 1 else f"the slowest way, {name},"
    return [f"a run of {arm} took {number(ratios[name], '.2f')} times as long as one of {analysis.baseline}"]


def notes(analysis: Analysis) -> list[str]:
    """Sentences below the summary: other contrasts, claims, twins, tuning, and runs that did not finish."""
    if not analysis.runs():
        return []
    spec, said = analysis.results.comparison, []
    others = [item for item in analysis.contrasts if item.contrast.name != spec.gatekeeper]
    if spec.gatekeeper is not None:
        said += _twins_of_gatekeeper(analysis)
        said += [_counts(analysis, others, "other ")] if others else []
    if len(others) > 1 or spec.gatekeeper is not None:
        said += _why_exploratory([item.judgement.why_exploratory for item in others])
    said += claims(analysis)
    said += [] if spec.tuning.trials else ["No arm was tuned."]
    said += identical(analysis)
    ran = f"{analysis.count('finished')} of {count(analysis.expected, 'evaluation run')} finished"
    diverged, failed = analysis.count("diverged"), analysis.count("failed")
    ran += f", {diverged} diverged (their contrasts have no size)" if diverged else ""
    said.append(ran + (f", {failed} failed (left out of all statistics)." if failed else "."))
    arms = dict.fromkeys(item.contrast.arm for item in analysis.contrasts)
    weak = [name for name in arms if 0 < analysis.arms[name].live.get("norm_ratio", 1.0) < NEGLIGIBLE]
    if weak:
        said.append(
            f"No effect of {listed(weak)} can be expected: the perturbation is below {100 * NEGLIGIBLE:g} % of Adam's "
            "step."
        )
    return said


def claims(analysis: Analysis) -> list[str]:
    """A sentence for each claim."""
    return [f"{arm}: {claim.sentence}." for arm, claim in analysis.claims.items()]


def layer_twins(analysis: Analysis) -> dict[str, str]:
    """What the twins of circuit layers in a comparison are, by their words."""
    arms = analysis.results.comparison.arms.values()
    used = {twin for arm in arms for twin in arm.layer_twins}
    return {twin: meaning for twin, meaning in MEANINGS.items() if twin in used}


def controls(analysis: Analysis) -> str:
    """Say which arms a claim must name for its effect to be called circuit-specific."""
    spec = analysis.results.comparison
    arms = [spec.arms[name] for name in spec.claims if name in spec.arms]
    layered = any(arm.layer_twins for arm in arms)
    perturbed = not layered or any(len(arm.layer_twins) < len(arm.twins) for arm in arms)
    ours = "the baseline, the frozen and shuffled twins, and an arm that trains with the closed-form sine"
    if not layered:
        return f"These arms must include {ours}."
    other = f" For an arm with twins of its perturbation they must also include {ours}." if perturbed else ""
    return f"For an arm with twins of its circuit layers, these arms must include all eight of them.{other}"


def _twins_of_gatekeeper(analysis: Analysis) -> list[str]:
    """The differences of the gatekeeper's arm from its frozen and scalar twins."""
    results = analysis.results
    gate = next(c for c in results.comparison.contrasts if c.name == results.comparison.gatekeeper)
    said = []
    for kind in ("frozen", "scalar"):
        twin = f"{gate.arm}/{kind}"
        if twin in analysis.arms and not analysis.arms[gate.arm].diverged and not analysis.arms[twin].diverged:
            a, b, seeds = results.pairs(gate.arm, twin)
            said += [f"from its {kind} twin by {analysis.numbers.by(float((a - b).mean()))}"] if seeds else []
    return [f"{gate.arm} differs {listed(said)}."] if said else []


def identical(analysis: Analysis) -> list[str]:
    """Name the arms with the baseline's curves; empty if there are none."""
    return [f"{', '.join(analysis.identical)}: bit-identical to {analysis.baseline}."] if analysis.identical else []


def _why_exploratory(reasons: list[str]) -> list[str]:
    there = [reason for reason in reasons if reason]
    if not there:
        return []
    ((why, times),) = Counter(there).most_common(1)
    if times == len(reasons):
        return [f"{'They are' if times > 1 else 'It is'} exploratory: {why}."]
    return [f"{len(there)} of them {'are' if len(there) > 1 else 'is'} exploratory, as the table of contrasts says."]


def level_warnings(analysis: Analysis) -> list[str]:
    """Warn about contrasts whose runs share less than declared."""
    weak = [c for c in analysis.contrasts if c.seeds and rank(c.level) > rank(c.contrast.level)]
    return [
        f"{c.contrast.name}: declared {c.contrast.level}, found {c.level or 'nothing'}{f' ({c.why})' if c.why else ''}."
        for c in weak
    ]


def learning_rate_factor(analysis: Analysis, arm: ArmAnalysis) -> float | None:
    """1 + lambda * offset if the live numbers show that lambda * s scales Adam's whole step; otherwise None."""
    live = arm.live
    names = ("norm_ratio", "norm_ratio_touched", "quantum_weight", "offset", "spread")
    ratio, touched, weight, offset, spread = (live.get(name, math.nan) for name in names)
    expected = abs(weight) * math.hypot(offset, spread)
    most = max(other.live.get("touched", 0.0) for other in analysis.arms.values())
    everywhere = abs(ratio - touched) <= 0.01 * touched and live.get("touched", 0.0) >= 0.99 * most
    return live.get("learning_rate_factor") if everywhere and expected / 3 <= ratio <= 3 * expected else None


def explanations(analysis: Analysis, arm: ArmAnalysis) -> list[str]:
    """Reasons from its live numbers why an arm may show no effect."""
    live, found = arm.live, []
    ratio, offset, spread = (live.get(name) for name in ("norm_ratio", "offset", "spread"))
    if ratio is not None and ratio < NEGLIGIBLE:
        found.append(
            f"the perturbation is {number(100 * ratio, '.2g')} % of Adam's step, so it can hardly have an effect"
            if ratio
            else "the perturbation never moved a weight"
        )
    if offset is not None and spread is not None and abs(offset) > max(3 * spread, 0.01):
        found.append(
            f"s is mostly constant (offset {number(offset, '.2f')}, spread {number(spread, '.2g')})"
            + _from_scalar_twin(analysis, arm)
        )
    if live.get("touched", 0) > 0 and live.get("effective") == 0:
        found.append("the perturbation moved none of the coordinates that it touches (|s| > 0.01 and Q other than 0)")
    names = {"unregistered": "not in any optimizer", "without_gradient": "without gradient", "unmoved": "unmoved"}
    for key, elements in arm.checks.items():
        shown = listed(elements[:3]) + (f" and {len(elements) - 3} more" if len(elements) > 3 else "")
        found.append(f"quantum parameters {names[key]}: {shown}")
    return found


def _from_scalar_twin(analysis: Analysis, arm: ArmAnalysis) -> str:
    """The effect of the part of s that is not constant, from the scalar twin; "" without that twin."""
    twin = f"{arm.name}/scalar"
    for item in analysis.contrasts:
        if (item.contrast.arm, item.contrast.against) == (arm.name, twin) and item.seeds:
            return f", but see {item.contrast.name}: {item.judgement.verdict}"
    if twin not in analysis.arms or arm.diverged or analysis.arms[twin].diverged:
        return ""
    (a, b, seeds) = analysis.results.pairs(arm.name, twin)
    if not seeds:
        return ""
    return f"; it differs from its scalar twin by {analysis.numbers.by(float((a - b).mean()))}"


def unequal_tuning(analysis: Analysis) -> list[str]:
    """Warn about arms that use another arm's settings, although they may need their own."""
    spec = analysis.results.comparison
    if not spec.tuning.trials:
        return []
    strong = [
        name
        for name, arm in analysis.arms.items()
        if "/" in name and (arm.live.get("norm_ratio", 0.0) >= NEGLIGIBLE or is_layer_twin(name))
    ]
    twins = f"Twins use the settings that were tuned for their arm, which favours the arm: {listed(strong)}."
    return [
        f"Unequal tuning: {name} uses settings that were tuned for {spec.arms[name].tuned_as}, although its "
        f"perturbation is {number(100 * analysis.arms[name].live['norm_ratio'], '.2g')} % of Adam's step."
        for name in spec.arms
        if spec.arms[name].tuned_as is not None and analysis.arms[name].live.get("norm_ratio", 0.0) >= NEGLIGIBLE
    ] + ([twins] if strong else [])


def live_numbers(analysis: Analysis, arm: ArmAnalysis) -> list[str]:
    """The numbers of an arm's row in the table of live checks."""
    shown = arm.live | {"learning_rate_factor": learning_rate_factor(analysis, arm)}
    return [column.show(shown.get(name)) for name, column in LIVE.items()]


def has_live(arm: ArmAnalysis) -> bool:
    """Whether an arm has checks or live numbers to show."""
    return bool(arm.checks) or any(key in arm.live for key in LIVE)


def declared(analysis: Analysis) -> str:
    """Say when metric, direction and margin were declared, if that was recorded."""
    record = analysis.results.provenance.get("declared")
    if not isinstance(record, dict) or "at" not in record:
        return "with its direction and margin (it is not recorded when they were declared)"
    if record.get("changes"):
        return f"declared at {record['at']} and changed since ({', '.join(record['changes'])})"
    return f"declared with its direction and margin before the runs, at {record['at']}"
