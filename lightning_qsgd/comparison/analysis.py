"""Compute all that a report shows about a comparison."""

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from lightning_qsgd.comparison.arms import layers_of, parse, put, trains_with_sine
from lightning_qsgd.comparison.pairing import level_of_contrast
from lightning_qsgd.comparison.results import Results, Run, mean
from lightning_qsgd.comparison.spec import Contrast, Level
from lightning_qsgd.comparison.statistics import Hits, Paired, paired, summarize_times, time_to_target
from lightning_qsgd.comparison.verdicts import Claim, Diverged, Judgement, claim, judge
from lightning_qsgd.report.numbers import Numbers
from lightning_qsgd.twin_names import LAYER_TWINS


@dataclass(frozen=True)
class ContrastAnalysis:
    """One declared contrast.

    Attributes:
        contrast: as declared.
        judgement: its statistics and verdict.
        seeds: seeds of its pairs, in the order of ``judgement.paired.differences``.
        level: the level at which its runs are paired; None for no level, and without pairs.
        why: what the next stronger level lacks.
    """

    contrast: Contrast
    judgement: Judgement
    seeds: list[int]
    level: Level | None
    why: str


def hints(results: Results, so_far: bool) -> list[str]:
    """The reasons why all judgements are exploratory; empty if they are not."""
    declared = results.provenance.get("declared")
    changes = declared.get("changes", []) if isinstance(declared, dict) else []
    found = [f"declared otherwise before the runs: {', '.join(changes)}"] if changes else []
    return ["runs are missing", *found] if so_far else found


def judge_contrasts(results: Results, hints: list[str]) -> list[ContrastAnalysis]:
    """Judge all declared contrasts together; any reason in ``hints`` makes them exploratory."""
    spec = results.comparison
    if not spec.contrasts:
        return []
    pairs = {contrast.name: results.pairs(contrast.arm, contrast.against) for contrast in spec.contrasts}
    numbers = Numbers(spec.metric.unit)
    values = {name: (a, b) for name, (a, b, _) in pairs.items()}
    diverged = {c.name: gone for c in spec.contrasts if (gone := _diverged(results, c.arm, c.against))}
    judged = judge(
        values,
        spec.metric.margin,
        spec.gatekeeper,
        scale=numbers.factor,
        unit=numbers.unit,
        diverged=diverged,
        exploratory=hints,
    )
    analyses = []
    for contrast in spec.contrasts:
        seeds = pairs[contrast.name][2]
        level, why = level_of_contrast(results, contrast.arm, contrast.against) if seeds else (None, "no pairs yet")
        analyses.append(ContrastAnalysis(contrast, judged[contrast.name], seeds, level, why))
    return analyses


def _diverged(results: Results, arm: str, against: str) -> Diverged | None:
    counts = [(name, results.counts(name)["diverged"], len(results.of(name))) for name in (arm, against)]
    said = [f"{gone} of {n} runs of {name} diverged" for name, gone, n in counts if gone]
    return Diverged(counts[0][1], counts[1][1], ", ".join(said)) if said else None


def judge_claim(results: Results, arm: str, others: list[str], hints: list[str]) -> Claim:
    """Judge a claim.

    The arm must also beat each of its twins that was trained, even if the claim does not name it, since an effect that
    a twin has is not specific to the circuit. The claim is refused if runs are not paired. It is called a
    circuit-specific effect only if the arms were tuned, and the others include the controls: for an arm with twins of
    circuit layers, all eight of these; for one with twins of a perturbation (or none), the baseline, the frozen and
    shuffled twins, and a sine control.
    """
    spec, refused = results.comparison, {}
    twins = [twin for name in spec.arms[arm].twins if results.of(twin := f"{arm}/{name}")] if arm in spec.arms else []
    others = list(dict.fromkeys([*others, *twins]))
    pairs = {other: results.pairs(arm, other)[:2] for other in others}
    for other in others:
        level, why = level_of_contrast(results, arm, other)
        gone = _diverged(results, arm, other)
        if level is None and len(pairs[other][0]):
            refused[other] = f"not paired: {arm} and {other} share nothing ({why})"
        elif gone and gone.own > gone.other:
            refused[other] = gone.sentence
    layers = spec.arms[arm].layer_twins if arm in spec.arms else []
    missing = [twin for twin in LAYER_TWINS if f"{arm}/{twin}" not in others] if layers else []
    controls = not missing
    if not layers or len(layers) < len(spec.arms[arm].twins):  # of a perturbation
        needed = {spec.baseline, f"{arm}/frozen", f"{arm}/shuffled"} <= set(others)
        controls = controls and needed and any(sine_control(results, other) for other in others)
    effect = "circuit-specific effect" if controls and spec.tuning.trials else ""
    found = claim(pairs, effect=effect, refused=refused, exploratory=hints)
    why = "nothing was tuned" if controls else f"it was not compared with {', '.join(missing)}" if missing else ""
    if why and found.holds and not effect:
        return replace(found, sentence=f"{found.sentence}; {why}, so this is no circuit-specific effect")
    return found


def sine_control(results: Results, name: str) -> bool:
    """Whether an arm trains with the closed-form sine, according to its configuration, not its name.

    The runner records it. Results of version 0.1.0 have no such record, so that their files and settings are parsed
    again. If these files no longer exist, the arm is not a sine control.
    """
    spec, own = results.comparison, results.arms.get(name, {})
    if "sine" in own or name not in spec.arms:
        return bool(own.get("sine"))
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            config = parse(layers_of(spec, name, "evaluation"), name)
        for key, value in (own.get("values") or {}).items():
            put(config, spec.full(key), value, name)
        return trains_with_sine(config)
    except (OSError, ValueError, SystemExit):
        return False


Summary = Literal["last", "final", "best", "averaged"]
Axis = Literal["epoch", "step", "seconds"]
SUMMARIES: tuple[Summary, ...] = get_args(Summary)
AXES: tuple[Axis, ...] = get_args(Axis)
CHECKS = ("unregistered", "without_gradient", "unmoved")
NEGLIGIBLE = 0.01  # of Adam's step


@dataclass(frozen=True)
class ArmAnalysis:
    """The evaluation runs of one arm.

    Attributes:
        name: name of the arm.
        runs: runs by seed.
        counts: number of runs by status.
        values: for each summary and for "test", one number per finished run that has it, in the metric's unit.
        times: for each target and axis, the time at which each finished or diverged run reached it; infinite for a
            miss.
        hits: for each target, the summarized epochs; None if no run was evaluated.
        seconds_ratios: ratios of training seconds to the baseline's, for seeds with which both finished.
        cost: medians over finished runs, by name as in ``Run.cost``.
        live: means over runs of the numeric live statistics.
        checks: for each failed check, the names of quantum parameters that failed it in any run.
        difference: difference from the baseline, positive is better. Diverged runs count as the worst value seen.
        level: the level at which its runs and the baseline's are paired; None for no level.
    """

    name: str
    runs: dict[int, Run]
    counts: dict[str, int]
    values: dict[str, list[float]]
    times: dict[str, dict[Axis, list[float]]]
    hits: dict[str, Hits | None]
    seconds_ratios: list[float]
    cost: dict[str, float]
    live: dict[str, float]
    checks: dict[str, list[str]]
    difference: Paired
    level: Level | None

    @property
    def seconds_ratio(self) -> float | None:
        """Median of ``seconds_ratios``; None if there are none."""
        return float(np.median(self.seconds_ratios)) if self.seconds_ratios else None

    @property
    def diverged(self) -> str:
        """A text such as "8 of 10 diverged"; "" if no run diverged."""
        gone = self.counts["diverged"]
        return f"{gone} of {len(self.runs)} diverged" if gone else ""


@dataclass(frozen=True)
class Analysis:
    """The analysis of one comparison.

    Attributes:
        results: the analysed results.
        arms: arms by name, in the order of the specification.
        contrasts: contrasts in the order of the specification.
        claims: claims by arm.
        horizon: length of the longest run on each axis.
        expected: number of evaluation runs in the specification.
        so_far: whether runs are missing.
        identical: arms whose curves all equal the baseline's, bit for bit.
    """

    results: Results
    arms: dict[str, ArmAnalysis]
    contrasts: list[ContrastAnalysis]
    claims: dict[str, Claim]
    horizon: dict[Axis, float]
    expected: int
    so_far: bool
    identical: list[str]

    @property
    def name(self) -> str:
        """Name of the comparison."""
        return self.results.comparison.name

    @property
    def baseline(self) -> str:
        """Name of the baseline."""
        return self.results.comparison.baseline

    @property
    def numbers(self) -> Numbers:
        """The number format of the primary metric."""
        return Numbers(self.results.comparison.metric.unit)

    def runs(self) -> list[Run]:
        """All evaluation runs."""
        return [run for arm in self.arms.values() for run in arm.runs.values()]

    def count(self, status: str) -> int:
        """The number of evaluation runs with a status."""
        return sum(arm.counts[status] for arm in self.arms.values())

    def drawn(self) -> list[str]:
        """The arms with a curve."""
        return [name for name, arm in self.arms.items() if any(run.curve for run in arm.runs.values())]

    def families(self) -> dict[str, list[str]]:
        """For each arm with twins or a claim, its twins and the arms of the claim, except for the baseline."""
        spec, drawn = self.results.comparison, self.drawn()
        families = {}
        for name in spec.arms:
            others = [f"{name}/{twin}" for twin in spec.arms[name].twins] + spec.claims.get(name, [])
            members = [
                other for other in dict.fromkeys(others) if other in drawn and other not in (name, spec.baseline)
            ]
            if name in drawn and members:
                families[name] = members
        return families

    def groups(self, most: int = 5) -> dict[str, list[str]]:
        """Arms outside families: by series of doses, then in the specification's order, at most ``most`` per group."""
        spec = self.results.comparison
        left = [name for name in self.drawn() if "/" not in name and name not in (spec.baseline, *self.families())]
        groups = {}
        for series, arms in spec.dose.items():
            members = [name for name in arms if name in left]
            if members:
                groups[series] = members
                left = [name for name in left if name not in members]
        parts = math.ceil(len(left) / most)
        for number, chunk in enumerate(np.array_split(left, parts) if parts else (), 1):
            title = "arms" if not groups and parts == 1 else "other arms"
            groups[f"{title} ({number} of {parts})" if parts > 1 else title] = [str(name) for name in chunk]
        if not groups and not self.families() and spec.baseline in self.drawn():
            groups[spec.baseline] = []
        return groups


def analyse(results: Results) -> Analysis:
    """Compute all that a report shows."""
    spec = results.comparison
    names = spec.all_arms()
    evaluated = [run for name in names for run in results.of(name).values()]
    horizon: dict[Axis, float] = {
        axis: max([x for run in evaluated for x in _axis(run, axis)], default=0.0) for axis in AXES
    }
    so_far = not results.provenance.get("complete", True) or not evaluated
    why = hints(results, so_far)
    return Analysis(
        results,
        {name: _arm(results, name, horizon) for name in names},
        judge_contrasts(results, why),
        {arm: judge_claim(results, arm, others, why) for arm, others in spec.claims.items() if others},
        horizon,
        len(names) * len(spec.seeds.evaluation),
        so_far,
        [name for name in names if name != spec.baseline and _same_curves(results.of(name), results.of(spec.baseline))],
    )


def finite(values: Sequence[float | None]) -> list[float]:
    """The finite numbers among values."""
    return [value for value in values if value is not None and math.isfinite(value)]


def time_of(results: Results, run: Run, axis: Axis, target: float) -> float:
    """The time of a run's first evaluation at or beyond a target; infinite if it never reaches it."""
    metric = results.comparison.metric
    values = run.curve.get(metric.name, [])
    times = run.curve.get(axis, list(range(1, len(values) + 1)) if axis == "epoch" else [])
    rows = [(t, v) for t, v in zip(times, values, strict=False) if t is not None and v is not None]
    return (
        time_to_target([t for t, _ in rows], [v for _, v in rows], target, "max" if metric.sign > 0 else "min")
        if rows
        else math.inf
    )


def _same_curves(runs: dict[int, Run], others: dict[int, Run]) -> bool:
    """Whether the runs of all seeds have equal metrics at every evaluation. False without evaluations."""

    def metrics(run: Run) -> dict[str, list[float | None]]:
        return {name: column for name, column in run.curve.items() if name != "seconds" and "/" in name}

    pairs = [(metrics(runs[seed]), metrics(others[seed])) for seed in runs.keys() & others.keys()]
    return bool(pairs) and runs.keys() == others.keys() and all(a == b and a for a, b in pairs)


def _arm(results: Results, name: str, horizon: dict[Axis, float]) -> ArmAnalysis:
    spec, runs = results.comparison, results.of(name)
    baseline = results.of(spec.baseline)
    finished = {seed: run for seed, run in runs.items() if run.status == "finished"}
    values = {summary: finite([results.value(run, summary) for run in finished.values()]) for summary in SUMMARIES}
    test = spec.metric.name.replace("val/", "test/", 1)
    values["test"] = finite([run.test.get(test) for run in finished.values()])
    evaluated = [run for run in runs.values() if run.status != "failed"]
    times: dict[str, dict[Axis, list[float]]] = {
        target: {axis: [time_of(results, run, axis, level) for run in evaluated] for axis in AXES}
        for target, level in results.targets.items()
    }
    hits = {
        target: summarize_times(by_axis["epoch"], horizon["epoch"]) if evaluated and horizon["epoch"] > 0 else None
        for target, by_axis in times.items()
    }
    names = dict.fromkeys(key for run in finished.values() for key in run.cost)
    costs = {key: finite([run.cost.get(key) for run in finished.values()]) for key in names}
    both = [(run.cost.get("seconds"), baseline[seed]) for seed, run in finished.items() if seed in baseline]
    took = [(own, other.cost.get("seconds")) for own, other in both if other.status == "finished"]
    ratios = [own / other for own, other in took if own is not None and other]
    numbers = dict.fromkeys(key for run in runs.values() for key, value in run.live.items() if _is_number(value))
    live = {key: mean([run.live.get(key) for run in runs.values()]) for key in numbers}
    wrong = {key: sorted({str(x) for run in runs.values() for x in run.live.get(key) or []}) for key in CHECKS}
    return ArmAnalysis(
        name,
        runs,
        results.counts(name),
        values,
        times,
        hits,
        ratios,
        {key: float(np.median(column)) for key, column in costs.items() if column},
        {key: value for key, value in live.items() if value is not None},
        {key: names for key, names in wrong.items() if names},
        paired(*results.pairs(name, spec.baseline)[:2], spec.metric.margin),
        level_of_contrast(results, name, spec.baseline)[0],
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _axis(run: Run, axis: Axis) -> list[float]:
    """Times of a run's evaluations. If epochs were not recorded, they are counted from 1."""
    rows = max((len(column) for column in run.curve.values()), default=0)
    column = run.curve.get(axis, list(range(1, rows + 1)) if axis == "epoch" else [])
    return finite(column)
