"""Figures of arms over training, with one panel for an arm and its twins, or for a few arms without twins."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lightning_qsgd.comparison.analysis import Analysis, finite
from lightning_qsgd.comparison.drawing import INK, OWN, Drawing, canvas, color_keys, style, to_svg
from lightning_qsgd.comparison.figures import interval, metric_label
from lightning_qsgd.comparison.numbers import Numbers, count
from lightning_qsgd.comparison.profiles import hit_curve

BASELINE = (3.0, 1.2)  # dashes
Corner = Literal["lower right", "upper right", "upper left"]
Draw = Callable[[Axes, str, str, tuple[float, ...]], None]


def learning_curves(analysis: Analysis) -> Drawing | None:
    """Mean of the metric after each evaluation, with 95 % intervals over seeds; None without curves."""
    numbers = Numbers(analysis.results.comparison.metric)
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
    alt += f"{_value(numbers, ends[low])} ({low}) and {_value(numbers, ends[high])} ({high})"
    own = analysis.baseline
    alt += f"; the baseline {own} is at {_value(numbers, ends[own])}." if own in ends else "."
    alt += f" Ending before, where the first run diverged: {', '.join(short)}." if short else ""
    caption = f"Means of {analysis.results.comparison.metric.name} over seeds with 95 % t-intervals."
    caption += " The axis leaves out the start of training." if low_end is not None else ""
    if analysis.count("diverged"):
        caption += " A curve ends where the first of its runs diverged."
    return Drawing("curves", svg, alt, caption)


def reached(analysis: Analysis, target: str) -> Drawing | None:
    """Share of runs that have reached a target, over epochs; None where no run has."""
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
    numbers = Numbers(analysis.results.comparison.metric)
    level = _value(numbers, analysis.results.targets[target])
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
    """A panel for each family, with one legend for all, and for each group, with its own; None without any."""
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
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
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
    """What a member is called in the legend: a twin by its kind."""
    return f"its twin: {member.partition('/')[2]}" if member.startswith(f"{family}/") else member


def _column(analysis: Analysis, name: str) -> tuple[NDArray[np.float64], ...] | None:
    """Epochs, mean, and ends of its interval, after each evaluation that all runs have that did not fail."""
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
    """Where the axis begins and ends, if the first quarter of training is to be left out; None if it is short."""
    late = [middle[len(middle) // 4 :] for _, middle, _, _ in means.values() if len(middle) >= 8]
    if not late:
        return None
    ends = [edge[len(edge) // 4 :] for _, _, low, high in means.values() if len(low) >= 8 for edge in (low, high)]
    bottom, top = np.quantile(np.concatenate([*late, *ends]), [0.02, 0.98])
    pad = 0.08 * (top - bottom) or 1e-3
    return (bottom - pad) * factor, (top + pad) * factor


def _value(numbers: Numbers, x: float) -> str:
    return numbers.with_unit(numbers.value(x))
