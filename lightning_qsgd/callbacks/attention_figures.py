"""Pictures of quantum attention: the spectrum of its series, and what it adds to a score.

Shapes: Q quantum heads, J frequencies, N scores.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

_SIZE = 13  # of letters, in points: TensorBoard shows pictures at half their size


def spectrum_figure(amplitudes: NDArray[np.floating], frequencies: Sequence[float], heads: Sequence[int]) -> Figure:
    """Heat map of amplitudes, heads by frequencies.

    Args:
        amplitudes: (Q, J), in units of score.
        frequencies: J multiples of a head's scale.
        heads: Q numbers of heads.
    """
    figure, axes = _figure()
    picture = axes.imshow(amplitudes, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    for ticks, names, numbers in (
        (axes.set_xticks, axes.set_xticklabels, [f"{f:g}" for f in frequencies]),
        (axes.set_yticks, axes.set_yticklabels, [str(h) for h in heads]),
    ):
        shown = range(0, len(numbers), -(-len(numbers) // 12))  # at most 12 fit
        ticks(list(shown))
        names([numbers[k] for k in shown])
    axes.set_xlabel("frequency, in multiples of the head's scale", fontsize=_SIZE)
    axes.set_ylabel("head", fontsize=_SIZE)
    bar = figure.colorbar(picture, ax=axes)
    bar.ax.tick_params(labelsize=_SIZE - 1)
    bar.set_label("amplitude of gain * Phi, units of score", fontsize=_SIZE)
    return figure


def curve_figure(
    scores: NDArray[np.floating],
    shifts: NDArray[np.floating],
    heads: Sequence[int],
    occurring: tuple[float, float] | None = None,
) -> Figure:
    """What each head adds to a score.

    Args:
        scores: (N,), ascending.
        shifts: (Q, N), gain * Phi at these scores.
        heads: Q numbers of heads; up to 8 have a legend.
        occurring: the range of scores that occur in data, to be shaded. Default: not known.
    """
    figure, axes = _figure()
    if occurring is not None:
        label = f"98 % of scores:\n{occurring[0]:.3g} to {occurring[1]:.3g}"
        axes.axvspan(*occurring, color="0.9", zorder=0, label=label)
    axes.axhline(0, color="0.6", linewidth=0.8)
    for head, shift in zip(heads, shifts, strict=True):
        axes.plot(scores, shift, linewidth=2, label=f"head {head}")
    axes.set_xlim(scores[0], scores[-1])
    axes.set_xlabel("score", fontsize=_SIZE)
    axes.set_ylabel("shift of the score, gain * Phi", fontsize=_SIZE)
    if len(heads) <= 8:
        figure.legend(loc="outside right upper", fontsize=_SIZE)
    return figure


def score_window(occurring: tuple[float, float] | None, fastest: float) -> tuple[float, float]:
    """The scores to draw: those that occur and half as many on each side, but at most two periods.

    Args:
        occurring: their range; None where it is not known: -4 to 4.
        fastest: the largest radians per unit of score of any head.
    """
    low, high = (-2.0, 2.0) if occurring is None else occurring
    half = max(high - low, 1e-3)
    if fastest > 0:
        half = min(half, 2 * math.pi / fastest)
    return (low + high) / 2 - half, (low + high) / 2 + half


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """A figure as an image (height, width, 3); no display and no global state is involved."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=_SIZE - 1)
    return figure, axes
