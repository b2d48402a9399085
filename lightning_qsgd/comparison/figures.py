"""Figures of a comparison: its contrasts, arms over training, doses and costs."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import stats

from lightning_qsgd.comparison.analysis import Analysis, ContrastAnalysis, finite
from lightning_qsgd.comparison.statistics import hit_curve
from lightning_qsgd.report.drawing import (
    BETTER,
    INK,
    MUTED,
    OWN,
    SHADE,
    WORSE,
    Drawing,
    canvas,
    color_keys,
    hide,
    put_rows,
    put_texts,
    reach,
    style,
    to_svg,
)
from lightning_qsgd.report.numbers import Numbers, count, number

BASELINE = (3.0, 1.2)  # dashes
Corner = Literal["lower right", "upper right", "upper left"]
Draw = Callable[[Axes, str, str, tuple[float, ...]], None]


def forest(analysis: Analysis) -> Drawing | None:
    """Mean difference and simultaneous interval of each declared contrast; None if no contrast has pairs."""
    rows, sized = _rows(analysis)
    if not rows:
        return None
    numbers, margin = analysis.numbers, analysis.results.comparison.metric.margin
    ends = [
        x for row in sized for x in (row.judgement.paired.mean, row.judgement.paired.low, row.judgement.paired.high)
    ]
    limit = reach(ends, margin)
    picture = _forest(analysis, rows, limit)
    above = sum(row.judgement.paired.low > 0 for row in sized)
    below = sum(row.judgement.paired.high < 0 for row in sized)
    alt = (
        f"Forest plot of {count(len(rows), 'contrast')}: {above} with an interval above 0, {below} below 0, "
        f"{len(sized) - above - below} around 0."
    )
    if sized:
        top = max(sized, key=lambda row: row.judgement.paired.mean)
        bottom = min(sized, key=lambda row: row.judgement.paired.mean)
        alt += f" Largest mean difference {numbers.by(top.judgement.paired.mean)} ({top.contrast.name}), smallest "
        alt += f"{numbers.by(bottom.judgement.paired.mean)} ({bottom.contrast.name})."
    gone = [f"{row.contrast.name} ({row.judgement.diverged})" for row in rows if row.judgement.diverged]
    alt += f" Marked at the edge, without a size: {', '.join(gone)}." if gone else ""
    caption = (
        "Mean paired differences of the declared contrasts with simultaneous intervals. The band is the margin; hollow "
        "marks are exploratory; triangles lie beyond the axis, or stand for contrasts with diverged runs."
    )
    return Drawing("contrasts", picture, alt, caption)


def _rows(analysis: Analysis) -> tuple[list[ContrastAnalysis], list[ContrastAnalysis]]:
    """The contrasts that have pairs, and those of them whose differences have a size."""
    rows = [item for item in analysis.contrasts if item.judgement.paired.n]
    return rows, [row for row in rows if not row.judgement.diverged]


def _forest(analysis: Analysis, rows: list[ContrastAnalysis], limit: float) -> str:
    factor, margin = analysis.numbers.factor, analysis.results.comparison.metric.margin
    with style():
        figure, (axes,) = canvas(0.75 + 0.24 * len(rows))
        _margin(axes, margin, analysis.numbers, limit)
        for y, row in enumerate(rows):
            p, color = row.judgement.paired, _color(row)
            filled = color if not row.judgement.exploratory else "white"
            mean = p.mean
            if row.judgement.diverged:
                mean = math.copysign(2 * limit, p.mean)  # beyond the axis, where a triangle marks it
            else:
                low, high = (max(-limit, min(limit, x)) if math.isfinite(x) else mean for x in (p.low, p.high))
                axes.plot([low * factor, high * factor], [y, y], color=color, lw=1.6, solid_capstyle="butt")
            _dots(axes, [mean], y, limit, factor, color=color, markersize=5.5, markerfacecolor=filled)
        gates = ["  (gatekeeper)" if _is_gate(analysis, row) else "" for row in rows]
        put_rows(axes, [f"{row.contrast.name}{gate}" for row, gate in zip(rows, gates, strict=True)])
        put_texts(axes, [f"{_size(analysis, row)}   {row.judgement.verdict}" for row in rows])
        axes.set_xlabel(_difference_label(analysis))
        return to_svg(figure)


def differences(analysis: Analysis) -> Drawing | None:
    """One dot for each seed of each declared contrast; None without pairs."""
    rows, sized = _rows(analysis)
    if not rows:
        return None
    numbers, margin = analysis.numbers, analysis.results.comparison.metric.margin
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
        put_rows(axes, [f"{row.contrast.name}  ({_wins(row)})" for row in rows])
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


def _difference_label(analysis: Analysis) -> str:
    metric, unit = analysis.results.comparison.metric, analysis.numbers.unit
    sign = "" if metric.mode == "max" else ", positive is better"
    return f"difference in {metric.name}{f' ({unit})' if unit else ''}{sign}"


def _margin(axes: Axes, margin: float, numbers: Numbers, limit: float) -> None:
    axes.axvspan(-margin * numbers.factor, margin * numbers.factor, color=SHADE, lw=0)
    axes.axvline(0, color=MUTED, lw=0.9)
    axes.set_xlim(-1.03 * limit * numbers.factor, 1.03 * limit * numbers.factor)


def _dots(axes: Axes, values, y: float, limit: float, factor: float, **style) -> None:
    """Draw dots in one row, with a triangle at the edge for each value beyond it."""
    for inside, marker in ((lambda v: abs(v) <= limit, "o"), (lambda v: v > limit, ">"), (lambda v: v < -limit, "<")):
        chosen = [max(-limit, min(limit, v)) * factor for v in values if inside(v)]
        if chosen:
            axes.plot(chosen, [y] * len(chosen), marker, clip_on=False, zorder=3, **style)


def _color(row: ContrastAnalysis) -> str:
    return {"b": BETTER, "w": WORSE}.get(row.judgement.verdict[0], MUTED)


def _wins(row: ContrastAnalysis) -> str:
    p = row.judgement.paired
    return f"{p.wins}/{p.ties}/{p.losses}"


def _wl(row: ContrastAnalysis) -> tuple[int, int]:
    return row.judgement.paired.wins, row.judgement.paired.losses


def _is_gate(analysis: Analysis, row: ContrastAnalysis) -> bool:
    return row.contrast.name == analysis.results.comparison.gatekeeper


def _size(analysis: Analysis, row: ContrastAnalysis) -> str:
    """The mean difference as text, or the number of diverged runs."""
    if not row.judgement.diverged:
        return analysis.numbers.difference(row.judgement.paired.mean)
    own = analysis.arms[row.contrast.arm].diverged
    return own or f"{row.contrast.against}: {analysis.arms[row.contrast.against].diverged}"


def learning_curves(analysis: Analysis) -> Drawing | None:
    """Mean of the metric after each evaluation, with 95 % intervals over seeds; None without curves."""
    numbers = analysis.numbers
    means = {name: column for name in analysis.arms if (column := _column(analysis, name)) is not None}

    def draw(axes: Axes, name: str, color: str, dashes: tuple[float, ...]) -> None:
        if name not in means:
            return
        x, middle, low, high = means[name]
        axes.plot(x, middle * numbers.factor, color=color, dashes=dashes, lw=1.4)
        axes.fill_between(x, low * numbers.factor, high * numbers.factor, color=color, alpha=0.13, lw=0)

        if low_end is not None:
            axes.set_ylim(*low_end)

    low_end = _limits(analysis, means, numbers.factor)
    corner: Corner = "lower right" if analysis.results.comparison.metric.mode == "max" else "upper right"
    svg = _panels(analysis, draw, metric_label(analysis), corner)
    if svg is None or not means:
        return None
    whole = max(len(middle) for _, middle, _, _ in means.values())
    ends = {name: float(middle[-1]) for name, (_, middle, _, _) in means.items() if len(middle) == whole}
    short = [f"{name} ({arm.diverged})" for name, arm in analysis.arms.items() if arm.diverged]
    low, high = min(ends, key=lambda name: ends[name]), max(ends, key=lambda name: ends[name])
    panels = len(analysis.families() | analysis.groups())
    alt = f"Learning curves of {count(len(means), 'arm')} in {count(panels, 'panel')}. "
    alt += "After the last evaluation the means lie between "
    alt += f"{numbers.full(ends[low])} ({low}) and {numbers.full(ends[high])} ({high})"
    own = analysis.baseline
    alt += f"; the baseline {own} is at {numbers.full(ends[own])}." if own in ends else "."
    alt += f" Ending before, where the first run diverged: {', '.join(short)}." if short else ""
    caption = f"Means of {analysis.results.comparison.metric.name} over seeds with 95 % t-intervals."
    caption += " The axis leaves out the start of training." if low_end is not None else ""
    if analysis.count("diverged"):
        caption += " A curve ends where the first of its runs diverged."
    return Drawing("curves", svg, alt, caption)


def reached(analysis: Analysis, target: str) -> Drawing | None:
    """Share of runs that have reached a target, over epochs; None if no run has."""
    times = {name: arm.times[target]["epoch"] for name, arm in analysis.arms.items() if arm.times[target]["epoch"]}
    if not np.isfinite([t for row in times.values() for t in row]).any():
        return None

    def draw(axes: Axes, name: str, color: str, dashes: tuple[float, ...]) -> None:
        if name in times:
            x, share = hit_curve(times[name])
            x, share = np.append(x, analysis.horizon["epoch"]), np.append(share, share[-1])
            axes.step(x, 100 * share, where="post", color=color, dashes=dashes)
            axes.set_ylim(-3, 103)

    svg = _panels(analysis, draw, "runs that reached it (%)", "upper left")
    if svg is None:
        return None
    numbers = analysis.numbers
    level = numbers.full(analysis.results.targets[target])
    what = level if target != "tuned baseline" else f"{level}, the baseline's own on the tuning seeds"
    rates = {name: float(np.isfinite(row).mean()) for name, row in times.items()}
    everyone = sum(rate == 1 for rate in rates.values())
    nobody = sum(rate == 0 for rate in rates.values())
    alt = f"Share of runs that reached {level} over epochs: {everyone} of {count(len(rates), 'arm')} with all runs, "
    alt += f"{nobody} with none"
    alt += f"; the baseline with {100 * rates[analysis.baseline]:.0f} %." if analysis.baseline in rates else "."
    number = list(analysis.results.targets).index(target) + 1
    return Drawing(f"target_{number}", svg, alt, f"Time to the target {what}: share of runs that have reached it.")


def _panels(analysis: Analysis, draw: Draw, label: str, corner: Corner) -> str | None:
    """A panel for each family, with a common legend, and for each group, with its own legend; None without panels."""
    families, groups = analysis.families(), analysis.groups()
    panels = families | groups
    if not panels:
        return None
    styles = color_keys([_key(name, member) for name, members in families.items() for member in members])
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style():
        figure, all_axes = canvas(0.55 + (2.3 if columns > 1 else 3.2) * rows, rows, columns, sharex=True, sharey=True)
        for axes, (name, members) in zip(all_axes, panels.items(), strict=False):
            keys = {member: _key(name, member) for member in members}
            own = styles if name in families else color_keys(members)
            draw(axes, analysis.baseline, INK, BASELINE)
            for member, key in keys.items():
                draw(axes, member, *own[key if name in families else member])
            if name in families:
                draw(axes, name, OWN, ())
            elif members:
                axes.legend(
                    handles=[_line(*own[member], member) for member in members],
                    loc=corner,
                    fontsize=7,
                    handlelength=2.6,
                )
            axes.set_title(name)
        hide(all_axes[len(panels) :])
        for axes in all_axes[::columns]:
            axes.set_ylabel(label)
        for axes in all_axes[max(0, len(panels) - columns) : len(panels)]:
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
        handles = [_line(INK, BASELINE, f"{analysis.baseline} (baseline)")]
        if families:
            handles.append(_line(OWN, (), "the arm in the title"))
        handles += [_line(*style, key) for key, style in styles.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(5, len(handles)), handlelength=3.2)
        return to_svg(figure)


def _line(color: str, dashes: tuple[float, ...], label: str) -> Line2D:
    return Line2D([], [], color=color, dashes=dashes, label=label)


def _key(family: str, member: str) -> str:
    """The name of a member in the legend; a twin is named by its kind."""
    return f"its twin: {member.partition('/')[2]}" if member.startswith(f"{family}/") else member


def _column(analysis: Analysis, name: str) -> tuple[NDArray[np.float64], ...] | None:
    """Epochs, mean, and ends of its interval, at each evaluation that all runs have, except failed ones."""
    metric = analysis.results.comparison.metric.name
    runs = [run for run in analysis.arms[name].runs.values() if run.status != "failed"]
    curves = [run.curve.get(metric, []) for run in runs]
    points = []
    for row in range(min(map(len, curves), default=0)):
        values = finite([curve[row] for curve in curves])
        if len(values) < len(runs):
            break
        epochs = runs[0].curve.get("epoch", [])
        epoch = epochs[row] if row < len(epochs) and epochs[row] is not None else row + 1
        points.append((epoch, float(np.mean(values)), *interval(np.array(values))))
    return tuple(np.array(points, dtype=np.float64).T) if points else None


def _limits(analysis: Analysis, means: dict[str, Any], factor: float) -> tuple[float, float] | None:
    """The limits of the axis if the first quarter of training is left out; None for short training."""
    late = [middle[len(middle) // 4 :] for _, middle, _, _ in means.values() if len(middle) >= 8]
    if not late:
        return None
    ends = [edge[len(edge) // 4 :] for _, _, low, high in means.values() if len(low) >= 8 for edge in (low, high)]
    bottom, top = np.quantile(np.concatenate([*late, *ends]), [0.02, 0.98])
    pad = 0.08 * (top - bottom) or 1e-3
    return (bottom - pad) * factor, (top + pad) * factor


def dose(analysis: Analysis) -> Drawing | None:
    """The metric over each declared series of doses; None if none was run."""
    results = analysis.results
    series = {
        name: arms
        for name, arms in results.comparison.dose.items()
        if any(analysis.arms[arm].values["last"] for arm in arms)
    }
    if not series:
        return None
    numbers, base = analysis.numbers, analysis.arms[analysis.baseline].values["last"]
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
        hide(panels[len(series) :])
        svg = to_svg(figure)
    alt = f"Dose-response of {count(len(series), 'series') if len(series) == 1 else f'{len(series)} series'}. Means: "
    caption = (
        "Dose-response: means with 95 % t-intervals, a dot for each finished run. The dashed line is the mean of "
        f"{analysis.baseline}. Intervals of single arms are wider than those of paired differences; "
        "a triangle at the bottom stands for runs that diverged."
    )
    return Drawing("dose", svg, alt + ", ".join(dict.fromkeys(said)) + ".", caption)


def cost(analysis: Analysis) -> Drawing | None:
    """Training seconds relative to the baseline, and circuits per run; None if no seed finished in both."""
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
    """The 95 % t-interval of a mean; the mean twice for a single value."""
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    return float(values.mean()) - half, float(values.mean()) + half


def metric_label(analysis: Analysis) -> str:
    """Name and unit of the primary metric."""
    metric = analysis.results.comparison.metric
    return f"{metric.name} ({metric.unit})" if metric.unit else metric.name
