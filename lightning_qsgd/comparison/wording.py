"""What a report says in sentences, made from its numbers."""

import math
from collections import Counter

from lightning_qsgd.comparison.analysis import NEGLIGIBLE, Analysis, ArmAnalysis
from lightning_qsgd.comparison.numbers import Numbers, count, listed, minus, number
from lightning_qsgd.comparison.statistics import seeds_needed


def verdict(analysis: Analysis) -> list[str]:
    """The report's first paragraph, in sentences: gatekeeper, other contrasts, claims, runs."""
    sentences = []
    finished, there = analysis.count("finished"), len(analysis.runs())
    if not there:
        return [f"Nothing has finished yet: none of the {count(analysis.expected, 'evaluation run')} is there."]
    if analysis.so_far:
        runs = count(analysis.expected, "evaluation run")
        sentences.append(f"These are results so far: {there} of {runs} are there, and verdicts may still change.")
    spec = analysis.results.comparison
    judged = {item.contrast.name: item.judgement for item in analysis.contrasts}
    if spec.gatekeeper is not None:
        sentences.append(f"The gatekeeper contrast, {minus(judged[spec.gatekeeper].sentence)}")
        sentences += _twins_of_gatekeeper(analysis)
    others = [judgement for name, judgement in judged.items() if name != spec.gatekeeper]
    if others:
        counted = Counter(judgement.verdict for judgement in others)
        names = {verdict: [j.name for j in others if j.verdict == verdict] for verdict in counted}
        found = listed([f"{n} {verdict}{_which(verdict, names[verdict])}" for verdict, n in counted.most_common()])
        many = "the other" if spec.gatekeeper else "the declared"
        sentences.append(f"Of {many} {count(len(others), 'contrast')}, judged together: {found}.")
        sentences += _why_exploratory([judgement.why_exploratory for judgement in others])
    if not judged:
        sentences.append("No contrast was declared, so nothing is judged; all differences below are descriptive.")
    sentences += [f"{arm}: {claim.sentence}." for arm, claim in analysis.claims.items()]
    sentences += [] if spec.tuning.trials else ["No arm was tuned."]
    sentences += [f"{sentence}." for sentence in identical(analysis)]
    ran = f"{finished} of {count(analysis.expected, 'evaluation run')} finished"
    diverged, failed = analysis.count("diverged"), analysis.count("failed")
    ran += f", {diverged} diverged (no size is given for their contrasts)" if diverged else ""
    sentences.append(ran + (f", {failed} failed (left out of all statistics)." if failed else "."))
    arms = dict.fromkeys(item.contrast.arm for item in analysis.contrasts)
    weak = [name for name in arms if 0 < analysis.arms[name].live.get("norm_ratio", 1.0) < NEGLIGIBLE]
    if weak:
        sentences.append(
            f"Expect no effect of {listed(weak)}: the perturbation is below {100 * NEGLIGIBLE:g} % of Adam's step."
        )
    return sentences


def _twins_of_gatekeeper(analysis: Analysis) -> list[str]:
    """What the gatekeeper's arm and its frozen and scalar twins differ by."""
    results, numbers = analysis.results, Numbers(analysis.results.comparison.metric)
    gate = next(c for c in results.comparison.contrasts if c.name == results.comparison.gatekeeper)
    said = []
    for kind in ("frozen", "scalar"):
        twin = f"{gate.arm}/{kind}"
        if twin in analysis.arms and not analysis.arms[gate.arm].diverged and not analysis.arms[twin].diverged:
            a, b, seeds = results.pairs(gate.arm, twin)
            difference = numbers.with_unit(numbers.difference(float((a - b).mean())), difference=True) if seeds else ""
            said += [f"from its {kind} twin by {difference}"] if seeds else []
    return [f"{gate.arm} differs {listed(said)}."] if said else []


def identical(analysis: Analysis) -> list[str]:
    """Which arms give the baseline's curves, without a full stop; empty where none does."""
    return [f"{', '.join(analysis.identical)}: bit-identical to {analysis.baseline}"] if analysis.identical else []


def _which(verdict: str, names: list[str]) -> str:
    return f" ({', '.join(names)})" if verdict.startswith(("better", "worse")) and len(names) <= 4 else ""


def _why_exploratory(reasons: list[str]) -> list[str]:
    there = [reason for reason in reasons if reason]
    if not there:
        return []
    ((why, times),) = Counter(there).most_common(1)
    if times == len(reasons):
        return [f"{'They are' if times > 1 else 'It is'} exploratory: {why}."]
    return [f"{len(there)} of them {'are' if len(there) > 1 else 'is'} exploratory, as their rows say."]


def learning_rate_factor(analysis: Analysis, arm: ArmAnalysis) -> float | None:
    """1 + lambda * offset where the live numbers say that lambda * s scales Adam's whole step; else None."""
    live = arm.live
    names = ("norm_ratio", "norm_ratio_touched", "quantum_weight", "offset", "spread")
    ratio, touched, weight, offset, spread = (live.get(name, math.nan) for name in names)
    expected = abs(weight) * math.hypot(offset, spread)
    most = max(other.live.get("touched", 0.0) for other in analysis.arms.values())
    everywhere = abs(ratio - touched) <= 0.01 * touched and live.get("touched", 0.0) >= 0.99 * most
    return live.get("learning_rate_factor") if everywhere and expected / 3 <= ratio <= 3 * expected else None


def explanations(analysis: Analysis, arm: ArmAnalysis) -> list[str]:
    """Why an arm may show no effect, from its live numbers; nothing where they do not say."""
    live, found = arm.live, []
    ratio, offset, spread = (live.get(name) for name in ("norm_ratio", "offset", "spread"))
    if ratio is not None and ratio < NEGLIGIBLE:
        found.append(
            f"the perturbation is {number(100 * ratio, '.2g')} % of Adam's step, so hardly anything can follow from it"
            if ratio
            else "the perturbation never moved a weight"
        )
    if offset is not None and spread is not None and abs(offset) > max(3 * spread, 0.01):
        found.append(
            f"s is mostly constant (offset {number(offset, '.2f')}, spread {number(spread, '.2g')})"
            + _from_scalar_twin(analysis, arm)
        )
    if live.get("touched", 0) > 0 and live.get("effective") == 0:
        found.append("no touched coordinate has |s| > 0.01 and Q other than 0")
    names = {"unregistered": "not in any optimizer", "without_gradient": "without gradient", "unmoved": "unmoved"}
    for key, elements in arm.checks.items():
        shown = listed(elements[:3]) + (f" and {len(elements) - 3} more" if len(elements) > 3 else "")
        found.append(f"quantum parameters {names[key]}: {shown}")
    return found


def _from_scalar_twin(analysis: Analysis, arm: ArmAnalysis) -> str:
    """What the part of s that is not constant does, from the twin that has only the constant; "" without it."""
    twin = f"{arm.name}/scalar"
    for item in analysis.contrasts:
        if (item.contrast.arm, item.contrast.against) == (arm.name, twin) and item.seeds:
            return f", but see {item.contrast.name}: {item.judgement.verdict}"
    if twin not in analysis.arms or arm.diverged or analysis.arms[twin].diverged:
        return ""
    numbers, (a, b, seeds) = Numbers(analysis.results.comparison.metric), analysis.results.pairs(arm.name, twin)
    if not seeds:
        return ""
    by = numbers.with_unit(numbers.difference(float((a - b).mean())), difference=True)
    return f"; it differs from its scalar twin by {by}"


def unequal_tuning(analysis: Analysis) -> list[str]:
    """Arms that took another arm's settings, although they could need their own."""
    spec = analysis.results.comparison
    if not spec.tuning.trials:
        return []
    strong = [n for n, arm in analysis.arms.items() if "/" in n and arm.live.get("norm_ratio", 0.0) >= NEGLIGIBLE]
    twins = f"Twins take their arm's settings, which favours the arm: {listed(strong)}."
    return [
        f"Unequal tuning: {name} has the settings of {spec.arms[name].tuned_as}, and its perturbation is "
        f"{number(100 * analysis.arms[name].live['norm_ratio'], '.2g')} % of Adam's step."
        for name in spec.arms
        if spec.arms[name].tuned_as is not None and analysis.arms[name].live.get("norm_ratio", 0.0) >= NEGLIGIBLE
    ] + ([twins] if strong else [])


def methods(analysis: Analysis) -> str:
    """A paragraph that a paper could print."""
    spec, numbers = analysis.results.comparison, Numbers(analysis.results.comparison.metric)
    metric, m = spec.metric, len(spec.contrasts) - (spec.gatekeeper is not None)
    arms = len(analysis.arms)
    margin = numbers.with_unit(numbers.size(metric.margin), difference=True)
    text = [
        f"We trained {count(arms, 'arm')} with {count(len(spec.seeds.evaluation), 'evaluation seed')} each, "
        f"interleaved. The primary metric, {_declared(analysis)}, is the mean of "
        f"{metric.name} over the last {count(metric.last, 'evaluation')} of a run "
        f"({'higher' if metric.mode == 'max' else 'lower'} is better; differences below {margin} do not matter)."
    ]
    if spec.tuning.trials:
        text.append(
            f"Arms with settings of their own were each tuned with {count(spec.tuning.trials, 'trial')} on "
            f"{count(len(spec.seeds.tuning), 'tuning seed')}, disjoint from the evaluation seeds; classical twins take "
            "the settings of their arm."
        )
    else:
        text.append("No arm was tuned.")
    text.append(
        "Runs of one seed are paired: they share initial values, batches and their order, and the random seed of each "
        "step, as far as the declared level says; hashes of what each run used confirm it."
    )
    if spec.contrasts:
        family = f"the {m} {'other ' if spec.gatekeeper else ''}contrasts" if m > 1 else "the contrast"
        first = "The gatekeeper contrast was judged first, at 5 %; " if spec.gatekeeper else ""
        simultaneous = f"{family} have simultaneous paired-t intervals (Bonferroni, 5 % in all)"
        text.append(
            f"{first}{simultaneous if m else 'no other contrast was declared'}. We call an arm better (worse) where "
            "its interval lies above (below) 0, by less than the margin where two one-sided t-tests (TOST) at the "
            "contrast's level also reject a difference beyond the margin, equivalent where they do and the interval "
            "holds 0, and inconclusive otherwise. Where runs diverged, sizes mean nothing: such contrasts are never "
            "called equivalent or smaller than the margin, nor decided for the arm of which more runs diverged. "
            "P-values are of exact two-sided sign-flip tests, adjusted by Holm's method over the same family; they "
            f"stand beside the verdicts and decide nothing. With {count(max(m, 1), 'contrast')} this needs "
            f"{count(seeds_needed(max(m, 1)), 'seed')}; with fewer, verdicts are exploratory"
            + (", as they are where the gatekeeper shows no difference." if spec.gatekeeper else ".")
            + " Bootstrap intervals (BCa) are shown from 10 pairs on, and decide nothing."
        )
    if spec.claims:
        text.append(
            "We speak of a circuit-specific effect where a tuned arm is better than each arm that its claim names and "
            "than each of its twins, at 5 % each (all must hold, so nothing is corrected), and these include the "
            "baseline, frozen and shuffled twins and a sine. The circuits are small enough to be simulated exactly: no "
            "claim of a quantum advantage follows."
        )
    if analysis.results.targets:
        text.append(
            "Time to target is the first evaluation at or beyond it; a run that misses it counts as infinite, and as "
            "the whole schedule in the restricted mean. "
        )
    text.append(
        "A run that diverged is kept, counted, and ranks as the worst value that any run of the comparison has shown; "
        "means of an arm are over its finished runs. A run that failed for another reason is left out and listed. "
        "Training seconds exclude evaluation."
    )
    return " ".join(sentence.strip() for sentence in text)


def _declared(analysis: Analysis) -> str:
    """When metric, direction and margin were declared, as far as there is a record."""
    record = analysis.results.provenance.get("declared")
    if not isinstance(record, dict) or "at" not in record:
        return "with its direction and margin (there is no record of when they were declared)"
    if record.get("changes"):
        return f"declared at {record['at']} and changed since ({', '.join(record['changes'])})"
    return f"declared with its direction and margin before the runs, at {record['at']}"
