"""Figures of a test: confusion, calibration, mistakes; predicted against true numbers, and forecasts.

Shapes: C classes, K targets, N rows.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lightning_qsgd.callbacks.figures import pixels
from lightning_qsgd.callbacks.test_records import SHOWN, interval
from lightning_qsgd.report.drawing import INK, MUTED, OTHERS, OWN, SHADE, WIDTH, hide, style

_DPI = 150
_PERSISTENCE = OTHERS[0]


def confusion_figure(confusion: NDArray[np.integer], names: Sequence[Any]) -> Figure:
    """Heat map of a confusion matrix.

    Args:
        confusion: counts (C, C), true class by predicted class.
        names: names of the C classes.
    """
    classes = len(names)
    size = min(4 + 0.28 * classes, 24)
    figure = _figure(size, size, _DPI if classes <= 40 else 100)
    axes = figure.add_subplot()
    shares = confusion / confusion.sum(1, keepdims=True).clip(1)
    norm = PowerNorm(1 if classes <= 20 else 0.5, 0, 1)  # where there are no counts, single mistakes show by colour
    picture = axes.imshow(shares, cmap="Blues", norm=norm)
    small = 8 if classes > 20 else 9
    axes.set_xticks(range(classes), names, rotation=90, fontsize=small)
    axes.set_yticks(range(classes), names, fontsize=small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("Confusion matrix\ncolour: share of the true class" + ("" if classes > 20 else "; numbers: rows"))
    figure.colorbar(picture, ax=axes, shrink=0.7)
    if classes <= 20:
        for (i, j), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[i, j] > 0.5 else "black"
                axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)
    return figure


def calibration_figure(bins: NDArray[np.float64], error: float, invalid: int = 0) -> Figure:
    """Reliability diagram: share of correct rows by confidence, with 95 % Wilson intervals, and counts below.

    Args:
        bins: (3, b): rows, correct rows and the sum of confidences in each of b bins of equal width over [0, 1].
        error: expected calibration error.
        invalid: number of rows without a confidence. Default: 0.
    """
    rows, right, confidence = bins
    used = np.flatnonzero(rows)
    edges = np.linspace(0, 1, len(rows) + 1)
    figure = _figure(5.2, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle="--", label="calibrated")
    share, mean = right[used] / rows[used], confidence[used] / rows[used]
    limits = [interval(int(k), int(n)) for k, n in zip(right[used], rows[used], strict=True)]
    around = np.abs(np.array(limits).reshape(-1, 2).T - share)
    upper.errorbar(
        mean, share, around, fmt="o-", color=OWN, markersize=4, capsize=2, label="share of correct rows, 95 % interval"
    )
    upper.set(ylim=(-0.02, 1.02), ylabel="share of correct rows")
    left = f", {invalid:,} with NaN left out" if invalid else ""
    upper.set_title(
        f"Calibration: expected calibration error {error:.3f}\n{len(rows)} bins, {int(rows.sum()):,} rows{left}"
    )
    lower.bar(edges[:-1], rows, np.diff(edges), align="edge", color=SHADE, edgecolor=MUTED, linewidth=0.6)
    lower.set(xlim=(0, 1), xlabel="confidence: probability of the predicted class", ylabel="rows")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def mistakes_figure(pictures: Sequence[NDArray[np.floating]], texts: Sequence[str], total: int) -> Figure:
    """The most confident mistakes as pictures.

    Args:
        pictures: up to 16, each (H, W, 3) or (H, W), in [0, 1].
        texts: what stands above each, at most three lines.
        total: number of all mistakes.
    """
    columns = min(4, len(pictures))
    lines = -(-len(pictures) // columns)
    figure = _figure(2.35 * max(columns, 2), 0.5 + 2.65 * lines)
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, picture, text in zip(panels, pictures, texts, strict=False):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(text, fontsize=7.5, loc="center")
        axes.set_axis_off()
    hide(panels[len(pictures) :])
    shown = f"the {len(pictures)} most confident of {total:,} mistakes" if total > len(pictures) else "all mistakes"
    figure.suptitle(f"Mistakes: {shown}", fontsize=9, x=0.01, ha="left")
    return figure


def predicted_figure(sample: NDArray[np.float64], names: Sequence[str], rows: int) -> Figure:
    """Predicted against true numbers, and the residuals.

    Args:
        sample: (S, 2, K'), predicted and true numbers of S rows, of the first K' targets.
        names: names of all K targets.
        rows: number of tested rows N.
    """
    shown = sample.shape[2]
    figure = _figure(WIDTH, 0.45 + 2.7 * shown)
    grid = figure.subplots(shown, 3, squeeze=False)
    for (scatter, counts, against), name, values in zip(grid, names, sample.transpose(2, 1, 0), strict=False):
        finite = np.isfinite(values).all(0)
        predicted, true = values[:, finite]
        residuals = predicted - true
        dots: dict[str, Any] = {"s": 9 if len(true) < 500 else 4, "color": OWN, "alpha": 0.5, "linewidths": 0}
        scatter.scatter(true, predicted, **dots)
        if len(true):
            ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
            scatter.plot(ends, ends, color=INK, linewidth=0.9, linestyle="--")
        scatter.set(title=_cut(name, 44), xlabel="true", ylabel="predicted")
        counts.hist(residuals, bins=30, color=OWN, alpha=0.75)
        counts.axvline(0, color=INK, linewidth=0.9, linestyle="--")
        lost = len(finite) - len(true)
        counts.set(
            title="Residuals" + (f" ({lost:,} not finite, left out)" if lost else ""),
            xlabel="predicted - true",
            ylabel="rows",
        )
        against.scatter(predicted, residuals, **dots)
        against.axhline(0, color=INK, linewidth=0.9, linestyle="--")
        against.set(title="Residuals by prediction", xlabel="predicted", ylabel="predicted - true")
    told = f"{len(sample):,} of {rows:,} rows, drawn at random" if rows > len(sample) else f"{rows:,} rows"
    if len(names) > shown:
        told += f"; the first {shown} of {len(names)} targets, all of them in targets.csv"
    figure.suptitle(f"Predicted against true: {told}", fontsize=9, x=0.01, ha="left")
    return figure


def series_of(names: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
    """The steps ahead of each series: (step, place in ``names``), by name, sorted.

    Names such as "load+1" and "load+2" are steps of one series. If a name has no step, each is a series with one.
    """
    found = [re.fullmatch(r"(.+?)\s*\+\s*(\d+)", name) for name in names]
    if not all(found):
        return {name: [(1, place)] for place, name in enumerate(names)}
    series: dict[str, list[tuple[int, int]]] = {}
    for place, match in enumerate(found):
        assert match is not None
        series.setdefault(match[1], []).append((int(match[2]), place))
    return {name: sorted(steps) for name, steps in series.items()}


def forecast_figure(
    latest: NDArray[np.float64],
    names: Sequence[str],
    errors: NDArray[np.float64],
    persistence: NDArray[np.float64],
    rows: int,
) -> Figure:
    """Truth, forecast and persistence over the last rows, and the error by steps ahead.

    Args:
        latest: (R, 3, K): forecast, truth and persistence of the last R rows, in their order.
        names: names of the K targets; see :func:`series_of`.
        errors, persistence: root mean square errors (K,) over all rows, of the forecast and of persistence.
        rows: number of tested rows N.
    """
    series = series_of(names)
    shown = list(series.items())[:SHOWN]
    ends = {name: {steps[0], steps[-1]} if len(shown) == 1 else {steps[0]} for name, steps in shown}
    lines = [(name, step, place) for name, steps in shown for step, place in steps if (step, place) in ends[name]]
    curves = [(name, steps) for name, steps in shown if len(steps) > 1]
    figure = _figure(WIDTH, 0.5 + 2.1 * len(lines) + (2.4 if curves else 0))
    parts = figure.subfigures(2, 1, height_ratios=(2.1 * len(lines), 2.4)) if curves else [figure]
    over = list(np.atleast_1d(parts[0].subplots(len(lines), 1, sharex=True)))  # type: ignore[attr-defined]
    numbers = np.arange(rows - len(latest), rows)
    for axes, (name, step, place) in zip(over, lines, strict=True):
        forecast, truth, last = latest[:, :, place].T
        axes.plot(numbers, truth, color=INK, linewidth=1.1, zorder=2.1, label="truth")
        axes.plot(numbers, forecast, color=OWN, linewidth=1.4, zorder=2.2, label="forecast")
        axes.plot(numbers, last, color=_PERSISTENCE, linewidth=0.9, alpha=0.8, label="persistence")
        ahead = f", {step} step{'s' * (step > 1)} ahead" if curves else ""
        told = f"{_cut(name, 40)}{ahead}: RMSE {errors[place]:.4g}, persistence {persistence[place]:.4g}"
        axes.set_title(told)
        axes.margins(x=0.01)
    over[-1].set_xlabel("row of the test data")
    over[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0)
    if curves:
        for axes, (name, steps) in zip(parts[1].subplots(1, len(curves), squeeze=False).flat, curves, strict=True):  # type: ignore[attr-defined]
            _draw_steps(axes, steps, errors, persistence, _cut(name, 90 // len(curves) - 28))
    which = f"the last {len(latest)} of {rows:,} rows" if rows > len(latest) else f"{rows:,} rows"
    if len(series) > len(shown):
        which += f"; the first {len(shown)} of {len(series)} series, all of them in targets.csv"
    figure.suptitle(f"Forecast: {which}", fontsize=9, x=0.01, ha="left")
    return figure


def _draw_steps(
    axes: Axes,
    steps: Sequence[tuple[int, int]],
    errors: NDArray[np.float64],
    persistence: NDArray[np.float64],
    name: str,
) -> None:
    ahead, places = zip(*steps, strict=True)
    axes.plot(ahead, errors[list(places)], "o-", color=OWN, markersize=3.5, label="forecast")
    axes.plot(ahead, persistence[list(places)], "o-", color=_PERSISTENCE, markersize=3.5, label="persistence")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.set(title=f"{name}: error by steps ahead", xlabel="steps ahead", ylabel="RMSE over all rows")
    axes.legend()


def drawn(draw: Callable[..., Figure], *arguments: Any) -> NDArray[np.uint8]:
    """Draw a figure in the style of reports, and render it: (height, width, 3)."""
    with style():
        return pixels(draw(*arguments))


def as_picture(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """An image (C, H, W) of any range as a picture in [0, 1]: (H, W, 3), or (H, W) unless it has three channels.

    It is scaled by its own minimum and maximum. Of other than three channels the mean is shown.
    """
    picture = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(0)
    low, high = np.nanmin(picture), np.nanmax(picture)
    return np.clip((picture - low) / (high - low), 0, 1) if high > low else np.zeros_like(picture)


def _figure(width: float, height: float, dpi: int = _DPI) -> Figure:
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def _cut(name: Any, length: int) -> str:
    text = str(name)
    return text if len(text) <= length else f"{text[: length - 3]}..."
