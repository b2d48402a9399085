"""Tables of a report, as text in cells; HTML and Markdown lay them out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_qsgd.comparison.analysis import Analysis, ArmAnalysis
from lightning_qsgd.comparison.numbers import NONE, Numbers, number, p_value
from lightning_qsgd.comparison.wording import explanations

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
    """Every declared contrast with all of its statistics."""
    numbers, spec = _numbers(analysis), analysis.results.comparison
    rows = []
    for item in analysis.contrasts:
        p, judgement, level = item.judgement.paired, item.judgement, item.contrast.level
        name = f"{item.contrast.name} (gatekeeper)" if item.contrast.name == spec.gatekeeper else item.contrast.name
        bca = numbers.interval(*p.bca) if p.bca else NONE
        cells = (
            name,
            judgement.verdict,
            "yes" if judgement.exploratory else "no",
            str(p.n),
            numbers.difference(p.mean),
        )
        cells += (
            numbers.interval(p.low, p.high),
            p_value(p.p_sign_flip),
            p_value(judgement.p_holm),
            number(p.d_z, ".2f"),
        )
        cells += (f"{p.wins}/{p.ties}/{p.losses}", number(p.probability, ".2f"), numbers.size(p.detectable))
        cells += (p_value(p.p_equivalence), bca, f"{level} / {item.level or NONE}")
        rows.append(cells)
    unit = f" ({numbers.unit})" if numbers.unit else ""
    columns = (
        "contrast",
        "verdict",
        "exploratory",
        "n#",
        f"difference{unit}#",
        "simultaneous interval#",
        "p sign\u2011flip#",
    )
    columns += (
        "p Holm#",
        "d_z#",
        "wins / ties / losses#",
        "P(A\u00a0>\u00a0B)#",
        f"detectable{unit}#",
        "p TOST#",
        "BCa interval#",
    )
    caption = (
        "Declared contrasts. Differences are arm minus the other, positive is better. p Holm is adjusted over all but "
        "the gatekeeper; P(A > B) is over all cross pairs; detectable is the true difference that would have been "
        "found with probability 0.8; p TOST is for a difference beyond the margin of "
        f"{numbers.with_unit(numbers.size(spec.metric.margin), difference=True)}; level is that of the pairing, "
        "declared / found."
    )
    return Table(caption, (*columns, "level"), rows)


def claims(analysis: Analysis) -> Table:
    """What each claimed arm must beat, and whether it does."""
    numbers, rows = _numbers(analysis), []
    for arm, claim in analysis.claims.items():
        for other, p in claim.paired.items():
            cells = (str(p.n), numbers.difference(p.mean), numbers.interval(p.low, p.high))
            rows.append((f"{arm} - {other}", *cells, "no" if other in claim.fails else "yes"))
    unit = f" ({numbers.unit})" if numbers.unit else ""
    caption = (
        "What a circuit-specific effect must beat: paired differences, of which each 95 % t-interval must lie above 0."
    )
    return Table(caption, ("pair", "n#", f"difference{unit}#", "95 % interval#", "beaten"), rows)


def arms(analysis: Analysis) -> Table:
    """Mean and standard deviation of each summary of the metric."""
    numbers, metric = _numbers(analysis), analysis.results.comparison.metric
    unit = f" ({metric.unit})" if metric.unit else ""
    tested = any(arm.values["test"] for arm in analysis.arms.values())
    keys = ("last", "final", "best", "averaged", *(["test"] if tested else []))
    names = {"last": f"mean of last {metric.last}", "averaged": "averaged weights"}
    rows = [
        (arm.name, _counts(arm), *(numbers.spread(arm.values[key]) for key in keys)) for arm in analysis.arms.values()
    ]
    caption = (
        f"{metric.name} of each arm, mean \u00b1 standard deviation over seeds. The first column of numbers is the "
        "primary metric. Runs: finished/diverged/failed; diverged runs count as the worst value seen"
        + (", and have no test value." if tested else ".")
    )
    return Table(caption, ("arm", "runs#", *(f"{names.get(key, key)}{unit}#" for key in keys)), rows)


def times(analysis: Analysis, target: str) -> Table:
    """How often and when each arm reached a target."""
    numbers, level = _numbers(analysis), analysis.results.targets[target]
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
    numbers, spec = _numbers(analysis), analysis.results.comparison
    judged = {contrast.arm for contrast in spec.contrasts} | {spec.baseline}
    rows = []
    for name, arm in analysis.arms.items():
        p = arm.difference
        if name not in judged and p.n:
            sd = numbers.size(p.sd)
            rows.append((name, str(p.n), numbers.difference(p.mean), sd, f"{p.wins}/{p.ties}/{p.losses}"))
    unit = f" ({numbers.unit})" if numbers.unit else ""
    caption = f"Paired differences from {spec.baseline}, positive is better."
    caption += " Descriptive, not judged: no contrast was declared for these arms."
    return Table(caption, ("arm", "n#", f"mean{unit}#", f"standard deviation{unit}#", "wins / ties / losses#"), rows)


def costs(analysis: Analysis) -> Table:
    """Medians of what a finished run took."""
    rows = []
    for arm in analysis.arms.values():
        cost = arm.cost
        memory = cost["peak_memory"] / 2**20 if "peak_memory" in cost else None
        cells = [
            number(arm.seconds_ratio, ".2f"),
            number(cost.get("seconds"), ",.1f"),
            number(cost.get("evaluation_seconds"), ",.1f"),
        ]
        cells += [number(cost.get(key), ",.0f") for key in ("steps", "examples", "circuits", "shots")]
        rows.append((arm.name, *cells, number(cost.get("circuit_seconds"), ",.1f"), number(memory, ",.0f")))
    columns = ("arm", f"seconds / {analysis.baseline}'s#", "training (s)#", "evaluation (s)#", "steps#", "examples#")
    columns += ("circuits#", "shots#", "in circuits (s)#", "peak memory (MiB)#")
    return Table("Cost of a run: medians over finished runs; ratios are medians of paired ratios.", columns, rows)


def tuning(analysis: Analysis) -> Table:
    """Tuned and default settings of each arm; without rows where nothing was tuned."""
    numbers, spec = _numbers(analysis), analysis.results.comparison
    rows = []
    for name, own in analysis.results.arms.items():
        if "/" in name or not own.get("values") or name not in spec.arms:
            continue
        scores = [trial.get("score") for trial in own.get("trials", [])]
        known = [score for score in scores if score is not None]
        best = (max(known) if spec.metric.mode == "max" else min(known)) if known else None
        source = spec.arms[name].tuned_as
        trials = str(len(scores)) if source is None else f"as {source}"
        edge = ", ".join(own.get("edge") or []) or ("no" if source is None else NONE)
        score = NONE if best is None else numbers.value(best)
        rows.append((name, _settings(own["values"]), _settings(own.get("default", {})), score, trials, edge))
    unit = f" ({spec.metric.unit})" if spec.metric.unit else ""
    caption = (
        f"Tuned on {len(spec.seeds.tuning)} tuning seeds, at most {spec.tuning.trials} trials an arm; the score is the "
        "best trial's mean over them. On the edge: settings whose best value is the smallest or largest that was tried."
    )
    return Table(caption, ("arm", "tuned", "default", f"score{unit}#", "trials#", "on the edge"), rows)


def live(analysis: Analysis) -> Table:
    """What each arm's perturbation did, and what follows; without rows where no arm has one."""
    rows = []
    for arm in analysis.arms.values():
        if not arm.live and not arm.checks:
            continue
        values = [arm.live.get(key) for key in LIVE]
        values[0] = None if values[0] is None else 100 * values[0]
        cells = [
            number(x, ",.0f" if key in ("effective", "touched") else ".3g") for key, x in zip(LIVE, values, strict=True)
        ]
        said = "; ".join(explanations(arm))
        rows.append((arm.name, *cells, said[:1].upper() + said[1:] + "." if said else ""))
    caption = (
        "Live checks, means over steps and runs. Norm ratio: size of the perturbation over that of Adam's step. "
        "Effective: coordinates with |s| > 0.01 and Q other than 0, of those touched. Offset and spread: mean and "
        "standard deviation of s. Factor: 1 + \u03bb \u00d7 offset."
    )
    columns = ("arm", "norm ratio (%)#", "effective#", "touched#", "offset#", "spread#", "learning-rate factor#")
    return Table(caption, (*columns, "what follows"), rows)


def unfinished(analysis: Analysis) -> Table:
    """Runs that diverged or failed, of both phases."""
    runs = [run for run in analysis.results.runs if run.status != "finished"]
    rows = [(run.arm, str(run.seed), run.phase, run.status, run.error or "") for run in runs]
    return Table("Runs that did not finish.", ("arm", "seed#", "phase", "status", "error"), rows)


def pairing(analysis: Analysis) -> Table:
    """Digests of what the runs of each seed used; a number where they differ."""
    rows = []
    seeds = sorted({run.seed for run in analysis.runs()})
    for seed in seeds:
        runs = [run for run in analysis.runs() if run.seed == seed and run.status == "finished"]
        cells = [
            _digests([_last(run.hashes.get(key)) for run in runs])
            for key in ("batches", "seeds", "parameters", "validation")
        ]
        rows.append((str(seed), str(len(runs)), *cells))
    caption = (
        "Hashes of what the finished runs of each seed used: all batches in their order, the random seeds of all "
        "steps, all initial values, the validation data. Where runs differ, their number of different hashes is given."
    )
    return Table(caption, ("seed#", "runs#", "batches", "step seeds", "initial values", "validation data"), rows)


def provenance(analysis: Analysis) -> Table:
    """Command, commit, versions, hardware, seeds."""
    results = analysis.results
    rows = [(key.replace("_", " "), _plain(value)) for key, value in results.provenance.items()]
    seeds = results.comparison.seeds
    rows += [("evaluation seeds", _plain(seeds.evaluation)), ("tuning seeds", _plain(seeds.tuning))]
    return Table("Provenance.", ("what", "value"), rows)


def _numbers(analysis: Analysis) -> Numbers:
    return Numbers(analysis.results.comparison.metric)


def _counts(arm: ArmAnalysis) -> str:
    return "/".join(str(arm.counts[status]) for status in ("finished", "diverged", "failed"))


def _median(values: list[float]) -> float | None:
    """As the epochs' median: the first time by which half of the runs had reached it."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} = {_plain(value)}" for key, value in values.items()) or NONE


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        steps = np.diff(value) if len(value) > 2 and all(type(item) is int for item in value) else np.zeros(1)
        return f"{value[0]} to {value[-1]}" if (steps == 1).all() else ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else NONE if value is None else str(value)


def _last(value: Any) -> str | None:
    return (value[-1] if value else None) if isinstance(value, list) else value


def _digests(values: list[str | None]) -> str:
    different = sorted({value for value in values if value})
    return NONE if not different else different[0][:12] if len(different) == 1 else f"{len(different)} different"
