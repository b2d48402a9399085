"""What a report says in sentences, made from its numbers."""

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
    ran = f"{finished} of {count(analysis.expected, 'evaluation run')} finished"
    diverged, failed = analysis.count("diverged"), analysis.count("failed")
    ran += f", {diverged} diverged (each counts as the worst value that any run has shown)" if diverged else ""
    sentences.append(ran + (f", {failed} failed (left out of all statistics)." if failed else "."))
    arms = dict.fromkeys(item.contrast.arm for item in analysis.contrasts)
    weak = [name for name in arms if 0 < analysis.arms[name].live.get("norm_ratio", 1.0) < NEGLIGIBLE]
    if weak:
        sentences.append(
            f"Expect no effect of {listed(weak)}: the perturbation is below {100 * NEGLIGIBLE:g} % of Adam's step."
        )
    return sentences


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


def explanations(arm: ArmAnalysis) -> list[str]:
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
        factor = live.get("learning_rate_factor")
        found.append(
            f"s hardly varies (mean {number(offset, '.2f')}, spread {number(spread, '.2g')}), so that it acts like "
            + ("a constant" if factor is None else f"a learning-rate factor of {number(factor, '.3g')}")
        )
    if live.get("touched", 0) > 0 and live.get("effective") == 0:
        found.append("no touched coordinate has |s| > 0.01 and Q other than 0")
    names = {"unregistered": "not in any optimizer", "without_gradient": "without gradient", "unmoved": "unmoved"}
    for key, elements in arm.checks.items():
        shown = listed(elements[:3]) + (f" and {len(elements) - 3} more" if len(elements) > 3 else "")
        found.append(f"quantum parameters {names[key]}: {shown}")
    return found


def unequal_tuning(analysis: Analysis) -> list[str]:
    """Arms that took another arm's settings, although they could need their own."""
    spec = analysis.results.comparison
    if not spec.tuning.trials:
        return []
    return [
        f"Unequal tuning: {name} has the settings of {spec.arms[name].tuned_as}, and its perturbation is "
        f"{number(100 * analysis.arms[name].live['norm_ratio'], '.2g')} % of Adam's step."
        for name in spec.arms
        if spec.arms[name].tuned_as is not None and analysis.arms[name].live.get("norm_ratio", 0.0) >= NEGLIGIBLE
    ]


def methods(analysis: Analysis) -> str:
    """A paragraph that a paper could print."""
    spec, numbers = analysis.results.comparison, Numbers(analysis.results.comparison.metric)
    metric, m = spec.metric, len(spec.contrasts) - (spec.gatekeeper is not None)
    arms = len(analysis.arms)
    margin = numbers.with_unit(numbers.size(metric.margin), difference=True)
    text = [
        f"We trained {count(arms, 'arm')} with {count(len(spec.seeds.evaluation), 'evaluation seed')} each, "
        f"interleaved. The primary metric, declared with its direction and margin before the runs, is the mean of "
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
            f"{first}{simultaneous if m else 'no other contrast was declared'}. P-values are of exact two-sided "
            "sign-flip tests, adjusted by Holm's method over the same family. We call arms equivalent where two "
            "one-sided t-tests (TOST) reject a difference beyond the margin at the contrast's level, and inconclusive "
            f"where neither that nor a difference is shown. With {count(max(m, 1), 'contrast')} this needs "
            f"{count(seeds_needed(max(m, 1)), 'seed')}; with fewer, verdicts are exploratory"
            + (", as they are where the gatekeeper shows no difference." if spec.gatekeeper else ".")
            + " Bootstrap intervals (BCa) are shown from 10 pairs on, and decide nothing."
        )
    if spec.claims:
        text.append(
            "We speak of a circuit-specific effect where an arm is better than each arm that its claim names, at 5 % "
            "each (all must hold, so nothing is corrected). The circuits are small enough to be simulated exactly: no "
            "claim of a quantum advantage follows."
        )
    if analysis.results.targets:
        text.append(
            "Time to target is the first evaluation at or beyond it; a run that misses it counts as infinite, and as "
            "the whole schedule in the restricted mean. "
        )
    text.append(
        "A run that diverged is kept, and counts as the worst value that any run of the comparison has shown; a run "
        "that failed for another reason is left out and listed. Training seconds exclude evaluation."
    )
    return " ".join(sentence.strip() for sentence in text)
