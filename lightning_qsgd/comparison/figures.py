"""Figures of doses and costs."""

import math

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from lightning_qsgd.comparison.analysis import Analysis
from lightning_qsgd.comparison.drawing import (
    INK,
    MUTED,
    OWN,
    SHADE,
    WORSE,
    Drawing,
    canvas,
    style,
    to_svg,
)
from lightning_qsgd.comparison.numbers import count, number
from lightning_qsgd.comparison.tables import numbers_of


def dose(analysis: Analysis) -> Drawing | None:
    """The metric over each declared series of doses; None without one that was run."""
    results = analysis.results
    series = {
        name: arms
        for name, arms in results.comparison.dose.items()
        if any(analysis.arms[arm].values["last"] for arm in arms)
    }
    if not series:
        return None
    numbers, base = numbers_of(analysis), analysis.arms[analysis.baseline].values["last"]
    columns = min(2, len(series))
    rows = math.ceil(len(series) / columns)
    arms = [analysis.arms[arm] for arm in dict.fromkeys(arm for chosen in series.values() for arm in chosen)]
    ends = [value for arm in arms for value in arm.values["last"]]
    pad = 0.04 * (max(ends) - min(ends)) or 0.01 * abs(ends[0]) or 0.01
    limits = ((min(ends) - pad) * numbers.factor, (max(ends) + pad) * numbers.factor)
    said = []
    with style():
        figure, panels = canvas(0.3 + 2.5 * rows, rows, columns, sharey=True)
        for axes, (name, chosen) in zip(panels, series.items(), strict=False):
            means = []
            for x, arm in enumerate(chosen):
                values = np.array(analysis.arms[arm].values["last"]) * numbers.factor
                gone = analysis.arms[arm].diverged
                if gone:
                    axes.plot(x, limits[0], "v", color=WORSE, clip_on=False)
                    axes.annotate(gone, (x, limits[0]), (0, 6), textcoords="offset points", ha="center", fontsize=7,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=5)  # fmt: skip
                if not len(values):
                    said += [f"{arm} none ({gone})"] if gone else []
                    continue
                jitter = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
                axes.plot(x + jitter, values, "o", color=OWN, ms=3.5, alpha=0.45, mew=0)
                low, high = interval(values)
                axes.errorbar(
                    x, values.mean(), [[values.mean() - low], [high - values.mean()]], color=INK, capsize=3, marker="o",
                    markersize=5,
                )  # fmt: skip
                means.append((x, values.mean()))
                said.append(f"{arm} {numbers.with_unit(numbers.value(float(values.mean()) / numbers.factor))}")
                said[-1] += f" ({gone})" if gone else ""
            if means:
                axes.plot(*zip(*means, strict=True), color=INK, lw=0.9, zorder=0)
            if base:
                axes.axhline(float(np.mean(base)) * numbers.factor, color=MUTED, lw=0.9, ls=(0, (4, 2)), zorder=0)
            axes.set_title(name)
            axes.set_xticks(range(len(chosen)), chosen, rotation=20, ha="right")
            axes.set_xlim(-0.5, len(chosen) - 0.5)
            axes.set_ylim(*limits)
        for axes in panels[::columns]:
            axes.set_ylabel(metric_label(analysis))
        _hide(panels[len(series) :])
        svg = to_svg(figure)
    alt = f"Dose-response of {count(len(series), 'series') if len(series) == 1 else f'{len(series)} series'}. Means: "
    caption = (
        "Dose-response: means with 95 % t-intervals, a dot for each finished run. The dashed line is the mean of "
        f"{analysis.baseline}. Intervals of single arms are wider than those of paired differences; "
        "a triangle at the bottom stands for runs that diverged."
    )
    return Drawing("dose", svg, alt + ", ".join(dict.fromkeys(said)) + ".", caption)


def cost(analysis: Analysis) -> Drawing | None:
    """Training seconds relative to the baseline, and circuits of a run; None where nothing finished with it."""
    arms = [arm for arm in analysis.arms.values() if arm.seconds_ratio is not None]
    if not arms:
        return None
    circuits = [arm.cost.get("circuits", 0.0) for arm in arms]
    columns = 2 if any(circuits) else 1
    with style():
        figure, panels = canvas(0.8 + 0.19 * len(arms), 1, columns, sharey=True)
        ratios = [arm.seconds_ratio or 0.0 for arm in arms]
        panels[0].axvline(1, color=MUTED, lw=0.9, ls=(0, (4, 2)))
        panels[0].hlines(range(len(arms)), 1, ratios, color="#b9cfdd", lw=1.2)
        panels[0].plot(ratios, range(len(arms)), "o", color=OWN, markersize=4.5)
        panels[0].set_xlabel(f"training seconds / {analysis.baseline}'s (median of paired ratios)")
        panels[0].set_xlim(min(0.9, *ratios, 0.95) - 0.05, 1.06 * max(*ratios, 1.05))
        if columns == 2:
            panels[1].plot(circuits, range(len(arms)), "o", color=OWN, markersize=4.5)
            panels[1].set_xscale("symlog", linthresh=1)
            panels[1].xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
            panels[1].tick_params(axis="y", length=0)
            panels[1].spines["left"].set_visible(False)
            panels[1].set_xlim(left=-0.3)
            panels[1].set_xlabel("circuits executed in a run (median)")
            panels[1].grid(axis="x", color=SHADE)
        put_rows(panels[0], [arm.name for arm in arms])
        svg = to_svg(figure)
    slowest = max(arms, key=lambda arm: arm.seconds_ratio or 0.0)
    alt = f"Cost of {count(len(arms), 'arm')}. The slowest is {slowest.name}, with "
    alt += f"{number(slowest.seconds_ratio)} times the training seconds of {analysis.baseline}."
    if columns == 2:
        most = max(arms, key=lambda arm: arm.cost.get("circuits", 0.0))
        alt += f" Most circuits: {most.cost['circuits']:,.0f} in a run of {most.name}."
    return Drawing(
        "cost",
        svg,
        alt,
        "Training time, without evaluation, and circuits of finished runs. The machine's load was not controlled.",
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % t-interval of a mean; the mean twice where one value gives none."""
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    return float(values.mean()) - half, float(values.mean()) + half


def metric_label(analysis: Analysis) -> str:
    """Name and unit of the primary metric."""
    metric = analysis.results.comparison.metric
    return f"{metric.name} ({metric.unit})" if metric.unit else metric.name


def put_rows(axes: Axes, labels: list[str]) -> None:
    """Rows from the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _hide(panels: list[Axes]) -> None:
    for axes in panels:
        axes.set_visible(False)
