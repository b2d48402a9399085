"""Figures of contrasts, doses and costs."""

import math

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from lightning_qsgd.comparison.analysis import Analysis
from lightning_qsgd.comparison.drawing import (
    BETTER,
    INK,
    MUTED,
    OWN,
    SHADE,
    WORSE,
    Drawing,
    canvas,
    reach,
    style,
    to_svg,
)
from lightning_qsgd.comparison.judging import ContrastAnalysis
from lightning_qsgd.comparison.numbers import Numbers, count, number


def forest(analysis: Analysis) -> Drawing | None:
    """Mean difference and simultaneous interval of each declared contrast; None without contrasts that have pairs."""
    rows = [item for item in analysis.contrasts if item.judgement.paired.n]
    if not rows:
        return None
    numbers, margin = _numbers(analysis), analysis.results.comparison.metric.margin
    sized = [row for row in rows if not row.judgement.diverged]
    ends = [
        x for row in sized for x in (row.judgement.paired.mean, row.judgement.paired.low, row.judgement.paired.high)
    ]
    limit = reach(ends, margin)
    with style():
        figure, (axes,) = canvas(0.75 + 0.24 * len(rows))
        _margin(axes, margin, numbers, limit)
        for y, row in enumerate(rows):
            p, color = row.judgement.paired, _color(row)
            filled = color if not row.judgement.exploratory else "white"
            if row.judgement.diverged:
                edge = math.copysign(2 * limit, p.mean)
                _dots(axes, [edge], y, limit, numbers.factor, color=color, markersize=5.5, markerfacecolor=filled)
                continue
            low, high = (max(-limit, min(limit, x)) if math.isfinite(x) else p.mean for x in (p.low, p.high))
            axes.plot([low * numbers.factor, high * numbers.factor], [y, y], color=color, lw=1.6, solid_capstyle="butt")
            _dots(axes, [p.mean], y, limit, numbers.factor, color=color, markersize=5.5, markerfacecolor=filled)
        labels = [
            f"{row.contrast.name}  (gatekeeper)" if _is_gate(analysis, row) else row.contrast.name for row in rows
        ]
        _rows(axes, labels)
        texts = axes.secondary_yaxis("right")
        shown = [f"{_size(analysis, row)}   {row.judgement.verdict}" for row in rows]
        texts.set_yticks(range(len(rows)), shown)
        texts.spines["right"].set_visible(False)
        texts.tick_params(length=0)
        axes.set_xlabel(_difference_label(analysis))
        svg = to_svg(figure)
    above = sum(row.judgement.paired.low > 0 for row in sized)
    below = sum(row.judgement.paired.high < 0 for row in sized)
    alt = (
        f"Forest plot of {count(len(rows), 'contrast')}: {above} with an interval above 0, {below} below 0, "
        f"{len(sized) - above - below} around 0."
    )
    if sized:
        top = max(sized, key=lambda row: row.judgement.paired.mean)
        bottom = min(sized, key=lambda row: row.judgement.paired.mean)
        alt += f" Largest mean difference {_text(numbers, top.judgement.paired.mean)} ({top.contrast.name}), smallest "
        alt += f"{_text(numbers, bottom.judgement.paired.mean)} ({bottom.contrast.name})."
    gone = [f"{row.contrast.name} ({row.judgement.diverged})" for row in rows if row.judgement.diverged]
    alt += f" Marked at the edge, without a size: {', '.join(gone)}." if gone else ""
    caption = (
        "Mean paired differences of the declared contrasts with simultaneous intervals. The band is the margin; hollow "
        "marks are exploratory; triangles lie beyond the axis, or stand for contrasts with diverged runs."
    )
    return Drawing("contrasts", svg, alt, caption)


def differences(analysis: Analysis) -> Drawing | None:
    """One dot for each seed of each declared contrast; None without pairs."""
    rows = [item for item in analysis.contrasts if item.judgement.paired.n]
    if not rows:
        return None
    numbers, margin = _numbers(analysis), analysis.results.comparison.metric.margin
    sized = [row for row in rows if not row.judgement.diverged]
    limit = reach([d for row in sized for d in row.judgement.paired.differences], margin)
    with style():
        figure, (axes,) = canvas(0.75 + 0.26 * len(rows))
        _margin(axes, margin, numbers, limit)
        for y, row in enumerate(rows):
            p = row.judgement.paired
            _dots(
                axes, p.differences, y, limit, numbers.factor, color=OWN, markersize=4.5, alpha=0.55, markeredgewidth=0
            )
            if not row.judgement.diverged:
                mean = max(-limit, min(limit, p.mean)) * numbers.factor
                axes.plot([mean, mean], [y - 0.34, y + 0.34], color=INK, lw=1.6)
        _rows(axes, [f"{row.contrast.name}  ({_wins(row)})" for row in rows])
        axes.set_xlabel(_difference_label(analysis))
        svg = to_svg(figure)
    beyond = sum(abs(d) > limit for row in rows for d in row.judgement.paired.differences)
    one_sided = [
        row.contrast.name for row in sized if row.judgement.paired.n in (_wl(row)) and row.judgement.paired.n > 1
    ]
    alt = f"Paired differences of {count(len(rows), 'contrast')}, a dot for each seed. "
    alt += f"All seeds agree in sign in {len(one_sided)} of them"
    alt += f": {', '.join(one_sided[:6])}{', ...' if len(one_sided) > 6 else ''}." if one_sided else "."
    alt += f" {count(beyond, 'dot')} beyond the axis." if beyond else ""
    caption = (
        "Differences seed by seed; the tick is their mean, the band the margin. In brackets wins, ties and losses. "
        "Triangles lie beyond the axis, as those of diverged runs do."
    )
    return Drawing("differences", svg, alt, caption)


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
    numbers, base = _numbers(analysis), analysis.arms[analysis.baseline].values["last"]
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
                    axes.annotate(gone, (x, limits[0]), (0, 6), textcoords="offset points", ha="center", fontsize=7)
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
        _rows(panels[0], [arm.name for arm in arms])
        svg = to_svg(figure)
    slowest = max(arms, key=lambda arm: arm.seconds_ratio or 0.0)
    alt = f"Cost of {count(len(arms), 'arm')}. The slowest is {slowest.name}, with "
    alt += f"{number(slowest.seconds_ratio)} times the training seconds of {analysis.baseline}."
    if columns == 2:
        most = max(arms, key=lambda arm: arm.cost.get("circuits", 0.0))
        alt += f" Most circuits: {most.cost['circuits']:,.0f} in a run of {most.name}."
    return Drawing("cost", svg, alt, "Training time, without evaluation, and circuits of finished runs.")


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % t-interval of a mean; the mean twice where one value gives none."""
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    return float(values.mean()) - half, float(values.mean()) + half


def metric_label(analysis: Analysis) -> str:
    """Name and unit of the primary metric."""
    metric = analysis.results.comparison.metric
    return f"{metric.name} ({metric.unit})" if metric.unit else metric.name


def _numbers(analysis: Analysis) -> Numbers:
    return Numbers(analysis.results.comparison.metric)


def _text(numbers: Numbers, x: float) -> str:
    return numbers.with_unit(numbers.difference(x), difference=True)


def _size(analysis: Analysis, row: ContrastAnalysis) -> str:
    """The mean difference, or how many runs diverged."""
    if not row.judgement.diverged:
        return _numbers(analysis).difference(row.judgement.paired.mean)
    own = analysis.arms[row.contrast.arm].diverged
    return own or f"{row.contrast.against}: {analysis.arms[row.contrast.against].diverged}"


def _difference_label(analysis: Analysis) -> str:
    metric, unit = analysis.results.comparison.metric, _numbers(analysis).unit
    sign = "" if metric.mode == "max" else ", positive is better"
    return f"difference in {metric.name}{f' ({unit})' if unit else ''}{sign}"


def _margin(axes: Axes, margin: float, numbers: Numbers, limit: float) -> None:
    axes.axvspan(-margin * numbers.factor, margin * numbers.factor, color=SHADE, lw=0)
    axes.axvline(0, color=MUTED, lw=0.9)
    axes.set_xlim(-1.03 * limit * numbers.factor, 1.03 * limit * numbers.factor)


def _dots(axes: Axes, values, y: float, limit: float, factor: float, **style) -> None:
    """Dots in one row; a triangle at the edge for each value beyond it."""
    for inside, marker in ((lambda v: abs(v) <= limit, "o"), (lambda v: v > limit, ">"), (lambda v: v < -limit, "<")):
        chosen = [max(-limit, min(limit, v)) * factor for v in values if inside(v)]
        if chosen:
            axes.plot(chosen, [y] * len(chosen), marker, clip_on=False, zorder=3, **style)


def _rows(axes: Axes, labels: list[str]) -> None:
    """Rows from the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _hide(panels: list[Axes]) -> None:
    for axes in panels:
        axes.set_visible(False)


def _color(row: ContrastAnalysis) -> str:
    return {"b": BETTER, "w": WORSE}.get(row.judgement.verdict[0], MUTED)


def _wins(row: ContrastAnalysis) -> str:
    p = row.judgement.paired
    return f"{p.wins}/{p.ties}/{p.losses}"


def _wl(row: ContrastAnalysis) -> tuple[int, int]:
    return row.judgement.paired.wins, row.judgement.paired.losses


def _is_gate(analysis: Analysis, row: ContrastAnalysis) -> bool:
    return row.contrast.name == analysis.results.comparison.gatekeeper
