"""Several comparisons as several tasks: who is fast, and who is good, over all of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_qsgd.comparison.analysis import Analysis, finite
from lightning_qsgd.comparison.drawing import INK, OWN, Drawing, canvas, color_keys, style, to_svg
from lightning_qsgd.comparison.numbers import count, listed, number
from lightning_qsgd.comparison.profiles import (
    algoperf_score,
    geometric_mean_speedup,
    interquartile_mean,
    performance_profile,
)
from lightning_qsgd.comparison.tables import Table

MAX_TAU = 4.0
TUNED = "tuned baseline"
Pace = Literal["step", "seconds"]
PACES: tuple[Pace, ...] = ("step", "seconds")


@dataclass(frozen=True)
class Across:
    """What several tasks say together.

    Attributes:
        tasks: their names.
        baseline: the first task's, against which speed-ups and scores are.
        times: of both axes: median time to the target of each arm on each task; infinite where most runs missed it.
        scores: of each arm: its runs' metrics over the mean of the task's baseline, of all tasks; above 1 is better.
    """

    tasks: list[str]
    baseline: str
    times: dict[Pace, dict[str, list[float]]]
    scores: dict[str, list[float]]


def combine(analyses: Sequence[Analysis]) -> Across | None:
    """Match arms by name; None where the tasks share fewer than two arms with runs, or not the first one's baseline."""
    baseline = analyses[0].baseline
    common = [name for name in analyses[0].arms if all(name in a.arms and _values(a, name) for a in analyses)]
    if len(common) < 2 or baseline not in common:
        return None
    times: dict[Pace, dict[str, list[float]]] = {
        axis: {name: [_time(a, name, axis) for a in analyses] for name in common} for axis in PACES
    }
    scores = {name: [x for a in analyses for x in _scores(a, name, baseline)] for name in common}
    return Across([a.name for a in analyses], baseline, times, scores)


def different(analyses: Sequence[Analysis]) -> bool:
    """Whether the tasks have validation data of their own: no digest of one is another's."""
    digests = [{run.hashes["validation"] for run in a.runs() if run.hashes.get("validation")} for a in analyses]
    return all(digests) and len(set.union(*digests)) == sum(map(len, digests))


def table(across: Across) -> Table:
    """AlgoPerf score, speed-up and interquartile mean of each arm, best score first."""
    areas = {axis: algoperf_score(across.times[axis], MAX_TAU) for axis in PACES}
    faster = {axis: geometric_mean_speedup(across.times[axis], across.baseline) for axis in PACES}
    rows = []
    for name in sorted(across.scores, key=lambda name: -areas["step"][name]):
        cells = [number(areas[axis][name], ".2f") for axis in PACES]
        for axis in PACES:
            speedup = faster[axis].get(name)
            cells.append(f"{number(speedup.ratio, '.2f')} ({speedup.tasks})" if speedup else "1 (baseline)")
        scores = across.scores[name]
        rows.append((name, *cells, number(interquartile_mean(scores), ".3f") if scores else number(None)))
    caption = (
        f"Over {count(len(across.tasks), 'task')}: {listed(across.tasks)}. AlgoPerf score: area under the performance "
        f"profile up to \u03c4 = {MAX_TAU:g}, 1 is the fastest on every task. Speed-up: geometric mean over "
        f"{across.baseline}, with the number of tasks that both reached. Interquartile mean: of all runs' metrics over "
        f"the mean of their task's {across.baseline}, inverted where lower is better. Times are medians over seeds, to "
        "the target that each task's tuned baseline set, or else the first one declared."
    )
    columns = ("arm", "AlgoPerf, steps#", "AlgoPerf, seconds#", "speed-up, steps#", "speed-up, seconds#")
    return Table(caption, (*columns, "interquartile mean#"), rows)


def profile(across: Across, most: int = 8) -> Drawing:
    """Dolan and More's performance profile, for steps and seconds; at most the baseline and the ``most`` best arms."""
    areas = algoperf_score(across.times["step"], MAX_TAU)
    names = [name for name in sorted(areas, key=lambda name: -areas[name]) if name != across.baseline][:most]
    styles = color_keys(names[1:]) | {across.baseline: (INK, (3, 1.2)), names[0]: (OWN, ())}
    taus = np.linspace(1, MAX_TAU, 301)
    with style():
        figure, panels = canvas(3.4, 1, 2, sharey=True)
        for axes, axis in zip(panels, PACES, strict=True):
            shares = performance_profile(across.times[axis], taus)
            for name in (*names, across.baseline):
                color, dashes = styles[name]
                axes.plot(taus, 100 * shares[name], color=color, dashes=dashes, label=name)
            axes.set_xlabel(f"\u03c4: factor on the fastest arm's {axis if axis == 'seconds' else 'steps'}")
            axes.set_ylim(-3, 103)
        panels[0].set_ylabel("tasks solved within it (%)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=5, handlelength=3.2)
        svg = to_svg(figure)
    best = max(areas, key=lambda name: areas[name])
    alt = (
        f"Performance profiles of {count(len(names) + 1, 'arm')} over {count(len(across.tasks), 'task')}. The highest "
        f"AlgoPerf score in steps is {number(areas[best], '.2f')} ({best}); {across.baseline} has "
        f"{number(areas[across.baseline], '.2f')}."
    )
    left = len(areas) - len(names) - 1
    caption = (
        "Performance profiles: share of tasks whose target an arm reaches within \u03c4 times the fastest arm's time."
    )
    caption += f" The {len(names)} best arms and the baseline; {left} more are in the table." if left > 0 else ""
    return Drawing("profile", svg, alt, caption)


def _time(analysis: Analysis, name: str, axis: Pace) -> float:
    targets = analysis.results.targets
    if not targets:
        return math.inf
    reached = analysis.arms[name].times[TUNED if TUNED in targets else next(iter(targets))][axis]
    middle = sorted(reached)[(len(reached) - 1) // 2] if reached else math.inf
    return max(middle, 1e-9)  # ratios need positive times


def _values(analysis: Analysis, name: str) -> list[float]:
    """Of finished and diverged runs; a diverged one counts as the worst value seen."""
    return finite([analysis.results.value(run) for run in analysis.arms[name].runs.values()])


def _scores(analysis: Analysis, name: str, baseline: str) -> list[float]:
    middle = float(np.mean(_values(analysis, baseline)))
    if analysis.results.comparison.metric.mode == "max":
        return [x / middle for x in _values(analysis, name)] if middle > 0 else []
    return [middle / x for x in _values(analysis, name) if x > 0]
