"""Tables of a report, as text in cells; HTML and Markdown lay them out."""

from dataclasses import dataclass

import numpy as np

from lightning_qsgd.comparison.analysis import Analysis, ArmAnalysis
from lightning_qsgd.comparison.numbers import NONE, Numbers, number, p_value
from lightning_qsgd.comparison.wording import explanations, learning_rate_factor

LIVE = ("norm_ratio", "effective", "touched", "offset", "spread", "learning_rate_factor")


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows, and how to read it.
        columns: headers; those of columns with numbers end in "#", which is not shown.
        rows: one text for each column.
    """

    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def headers(self) -> list[tuple[str, bool]]:
        """Header, and whether the column holds numbers."""
        return [(column.removesuffix("#").rstrip(), column.endswith("#")) for column in self.columns]


def contrasts(analysis: Analysis) -> Table:
    """Every declared contrast with its verdict, and what that rests on."""
    numbers, spec = numbers_of(analysis), analysis.results.comparison
    rows = []
    for item in analysis.contrasts:
        p, judgement = item.judgement.paired, item.judgement
        name = f"{item.contrast.name} (gatekeeper)" if item.contrast.name == spec.gatekeeper else item.contrast.name
        shown = (numbers.difference(p.mean), numbers.interval(p.low, p.high))
        rows.append(
            (
                name,
                judgement.verdict,
                "yes" if judgement.exploratory else "no",
                str(p.n),
                *((NONE, judgement.diverged) if judgement.diverged else shown),
                p_value(judgement.p_holm),
                f"{p.wins}/{p.ties}/{p.losses}",
            )
        )
    caption = (
        "Declared contrasts: arm minus the other, positive is better. p Holm is adjusted over all but the gatekeeper, "
        "whose own is as it is; it stands beside the verdict and decides nothing."
    )
    columns = ("contrast", "verdict", "exploratory", "n#", f"difference{_unit(numbers)}#", "simultaneous interval#")
    return Table(caption, (*columns, "p Holm#", "wins / ties / losses#"), rows)


def details(analysis: Analysis) -> Table:
    """Further statistics of every declared contrast."""
    numbers, spec = numbers_of(analysis), analysis.results.comparison
    rows = []
    for item in analysis.contrasts:
        p, level = item.judgement.paired, f"{item.contrast.level} / {item.level or NONE}"
        bca = f"{numbers.interval(*p.bca)} ({100 * (1 - p.alpha):.3g} %)" if p.bca else NONE
        sized = (number(p.d_z, ".2f"), numbers.size(p.detectable), p_value(p.p_equivalence), bca)
        sized = (NONE,) * 4 if item.judgement.diverged else sized
        rows.append((item.contrast.name, p_value(p.p_sign_flip), number(p.probability, ".2f"), *sized, level))
    caption = (
        "More of the same contrasts. P(A > B) is over all cross pairs; detectable is the true difference that would "
        "have been found with probability 0.8; p TOST is for a difference beyond the margin of "
        f"{numbers.with_unit(numbers.size(spec.metric.margin), difference=True)}; the BCa interval is at the "
        "contrast's level; pairing is declared / found. Dashes where runs diverged: sizes mean nothing there."
    )
    columns = ("contrast", "p sign\u2011flip#", "P(A\u00a0>\u00a0B)#", "d_z#", f"detectable{_unit(numbers)}#")
    return Table(caption, (*columns, "p TOST#", "BCa interval#", "pairing"), rows)


def claims(analysis: Analysis) -> Table:
    """What each claimed arm must beat, and whether it does."""
    numbers, rows = numbers_of(analysis), []
    for arm, claim in analysis.claims.items():
        for other, p in claim.paired.items():
            gone = analysis.arms[arm].diverged or analysis.arms[other].diverged
            shown = (NONE, gone) if gone else (numbers.difference(p.mean), numbers.interval(p.low, p.high))
            rows.append((f"{arm} - {other}", str(p.n), *shown, "no" if other in claim.fails else "yes"))
    caption = "What a claim must beat: paired differences, of which each 95 % t-interval must lie above 0."
    return Table(caption, ("pair", "n#", f"difference{_unit(numbers)}#", "95 % interval#", "beaten"), rows)


def arms(analysis: Analysis) -> Table:
    """Mean and standard deviation of each summary of the metric."""
    numbers, metric = numbers_of(analysis), analysis.results.comparison.metric
    unit = f" ({metric.unit})" if metric.unit else ""
    tested = any(arm.values["test"] for arm in analysis.arms.values())
    keys = ("last", "final", "best", "averaged", *(["test"] if tested else []))
    names = {"last": f"mean of last {metric.last}", "averaged": "averaged weights"}
    rows = []
    for arm in analysis.arms.values():
        left = f" (of {arm.counts['finished']})" if arm.diverged else ""
        cells = [f"{numbers.spread(arm.values[key])}{left if arm.values[key] else ''}" for key in keys]
        rows.append((arm.name, arm.diverged or _counts(arm), *cells))
    caption = (
        f"{metric.name} of each arm, mean \u00b1 standard deviation over the seeds that finished. The first column of "
        "numbers is the primary metric. Runs: finished/diverged/failed, or how many diverged."
    )
    return Table(caption, ("arm", "runs#", *(f"{names.get(key, key)}{unit}#" for key in keys)), rows)


def times(analysis: Analysis, target: str) -> Table:
    """How often and when each arm reached a target."""
    numbers, level = numbers_of(analysis), analysis.results.targets[target]
    rows = []
    for arm in analysis.arms.values():
        hits = arm.hits[target]
        medians = [_median(arm.times[target][axis]) for axis in ("step", "seconds")]
        cells = (
            (f"{hits.hits} of {hits.n}", number(hits.median, ".4g"), number(hits.restricted_mean, ".1f"))
            if hits
            else (NONE,) * 3
        )
        rows.append((arm.name, *cells, number(medians[0], ",.0f"), number(medians[1], ".1f")))
    what = numbers.with_unit(numbers.value(level))
    what += ", the baseline's own on the tuning seeds" if target == "tuned baseline" else ""
    caption = (
        f"Time to the target {what}. A run that misses it counts as infinite in medians, and as the whole schedule of "
        f"{number(analysis.horizon['epoch'], '.4g')} epochs in the restricted mean."
    )
    columns = ("arm", "reached#", "median epochs#", "restricted mean epochs#", "median steps#", "median seconds#")
    return Table(caption, columns, rows)


def descriptive(analysis: Analysis) -> Table:
    """Differences from the baseline of arms that no contrast judges."""
    numbers, spec = numbers_of(analysis), analysis.results.comparison
    judged = {contrast.arm for contrast in spec.contrasts} | {spec.baseline}
    base = analysis.arms[spec.baseline].diverged
    rows = []
    for name, arm in analysis.arms.items():
        p, gone = arm.difference, arm.diverged or (f"{spec.baseline}: {base}" if base else "")
        if name not in judged and p.n:
            shown = (gone, NONE) if gone else (numbers.difference(p.mean), numbers.size(p.sd))
            rows.append((name, str(p.n), *shown, f"{p.wins}/{p.ties}/{p.losses}", arm.level or "nothing shared"))
    caption = f"Paired differences from {spec.baseline}, positive is better."
    caption += " Descriptive, not judged: no contrast was declared for these arms."
    unit = _unit(numbers)
    columns = ("arm", "n#", f"mean{unit}#", f"standard deviation{unit}#", "wins / ties / losses#", "pairing")
    return Table(caption, columns, rows)


def costs(analysis: Analysis) -> Table:
    """Medians of what a finished run took."""
    rows = []
    for arm in analysis.arms.values():
        cost, ratios = arm.cost, arm.seconds_ratios
        memory = cost["peak_memory"] / 2**20 if "peak_memory" in cost else None
        low, high = np.quantile(ratios, [0.25, 0.75]) if ratios else (None, None)
        quartiles = NONE if low is None else f"{number(low, '.2f')} to {number(high, '.2f')}"
        cells = [str(len(ratios)), number(arm.seconds_ratio, ".2f"), quartiles, arm.level or "nothing shared"]
        cells += [number(cost.get("seconds"), ",.1f"), number(cost.get("evaluation_seconds"), ",.1f")]
        cells += [number(cost.get(key), ",.0f") for key in ("steps", "examples", "circuits", "shots")]
        rows.append((arm.name, *cells, number(cost.get("circuit_seconds"), ",.1f"), number(memory, ",.0f")))
    columns = ("arm", "n#", f"seconds / {analysis.baseline}'s#", "quartiles#", "pairing", "training (s)#")
    columns += ("evaluation (s)#", "steps#", "examples#", "circuits#", "shots#", "in circuits (s)#")
    caption = (
        "Cost of a run: medians over finished runs; ratios are medians of n paired ratios, with their quartiles. The "
        "machine's load was not controlled, as other runs went on beside: only make bench gives controlled ratios."
    )
    return Table(caption, (*columns, "peak memory (MiB)#"), rows)


def live(analysis: Analysis) -> Table:
    """What each arm's perturbation did, and what follows; without rows where no arm has one."""
    rows = []
    for arm in analysis.arms.values():
        if not arm.checks and not any(key in arm.live for key in LIVE):
            continue
        values = {key: arm.live.get(key) for key in LIVE}
        values["norm_ratio"] = None if values["norm_ratio"] is None else 100 * values["norm_ratio"]
        values["learning_rate_factor"] = learning_rate_factor(analysis, arm)
        cells = [number(x, ",.0f" if key in ("effective", "touched") else ".3g") for key, x in values.items()]
        said = "; ".join(explanations(analysis, arm))
        rows.append((arm.name, *cells, said[:1].upper() + said[1:] + "." if said else ""))
    caption = (
        "Live checks, over steps and runs. Norm ratio: size of the perturbation over that of Adam's step. Effective: "
        "coordinates with |s| > 0.01 and Q other than 0, of those touched. Offset and spread: mean and standard "
        "deviation of s. Factor: 1 + \u03bb \u00d7 offset, where the perturbation is Adam's step times \u03bb s on "
        "all coordinates; elsewhere a dash."
    )
    columns = ("arm", "norm ratio (%)#", "effective#", "touched#", "offset#", "spread#", "learning-rate factor#")
    return Table(caption, (*columns, "what follows"), rows)


def numbers_of(analysis: Analysis) -> Numbers:
    """How the primary metric is printed."""
    return Numbers(analysis.results.comparison.metric)


def _counts(arm: ArmAnalysis) -> str:
    return "/".join(str(arm.counts[status]) for status in ("finished", "diverged", "failed"))


def _median(values: list[float]) -> float | None:
    """As the epochs' median: the first time by which half of the runs had reached it."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def _unit(numbers: Numbers) -> str:
    return f" ({numbers.unit})" if numbers.unit else ""
