"""Figures for TensorBoard, as images: quantum attention, a circuit's drawing and the outcomes of a circuit.

Shapes: Q quantum heads, J frequencies, N scores, O = 2**n outcomes of n qubits.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

BARS = 16  # outcomes that fit next to each other
_SIZE = 13  # font size in points: TensorBoard shows images at half their size
_COLOURS = {"exact": "0.75", "measured": "tab:blue", "series": "tab:orange"}


def spectrum_figure(amplitudes: NDArray[np.floating], frequencies: Sequence[float], heads: Sequence[int]) -> Figure:
    """Heat map of amplitudes, heads by frequencies.

    Args:
        amplitudes: (Q, J), in units of the score.
        frequencies: the J frequencies, in multiples of a head's scale.
        heads: numbers of the Q heads.
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
    """Curves of what each head adds to a score.

    Args:
        scores: (N,), ascending.
        shifts: (Q, N), gain * Phi at these scores.
        heads: numbers of the Q heads; up to 8 have a legend.
        occurring: the range of scores that occur in data, which is shaded. Default: None, unknown.
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
    """The range of scores to draw: twice the range that occurs, but at most two periods.

    Args:
        occurring: the range that occurs. None (unknown) counts as -2 to 2.
        fastest: the largest number of radians per unit of score among the heads.
    """
    low, high = (-2.0, 2.0) if occurring is None else occurring
    half = max(high - low, 1e-3)
    if fastest > 0:
        half = min(half, 2 * math.pi / fastest)
    return (low + high) / 2 - half, (low + high) / 2 + half


@cache
def drawing_image(drawing: str) -> NDArray[np.uint8]:
    """Render the text drawing of a circuit as an image, (height, width, 3), once in a process."""
    lines, size = drawing.splitlines(), 11 / 72  # inches; a letter is 0.602 as wide as high
    width, height = max(map(len, lines)) * 0.602 * size + 0.4, len(lines) * size + 0.4
    figure = Figure(figsize=(width, height), dpi=100)
    font = {"family": "DejaVu Sans Mono", "fontsize": 72 * size, "linespacing": 0.9}
    figure.text(0.2 / width, 0.5, "\n".join(lines), va="center", **font)
    return pixels(figure)


@cache
def outcome_picture(num_qubits: int, names: tuple[str, ...]) -> "OutcomePicture":
    """The picture of these arguments. The runs of a process, such as those of a comparison, share it."""
    return OutcomePicture(num_qubits, names)


class OutcomePicture:
    """Bars of outcome probabilities next to the exact ones. Axes and text, which take longest, are drawn once.

    Args:
        num_qubits: n. Above 4, the figure shows the 15 likeliest outcomes and the sum of all others.
        names: names of the distributions next to the exact one.
    """

    def __init__(self, num_qubits: int, names: tuple[str, ...]) -> None:
        self._num_qubits, self._names = num_qubits, ("exact", *names)
        self._figure = Figure(figsize=(6.4, 3.6), dpi=100)
        self._canvas = FigureCanvasAgg(self._figure)
        self._axes = axes = self._figure.add_axes((0.13, 0.25, 0.85, 0.65))
        count = min(2**num_qubits, BARS)
        width = 0.84 / len(self._names)
        self._bars = {
            name: axes.bar(
                np.arange(count) - 0.42 + (i + 0.5) * width, np.zeros(count), width, color=_COLOURS[name], label=name
            )
            for i, name in enumerate(self._names)
        }
        axes.set_xlim(-0.6, count - 0.4)
        axes.set_xticks(range(count), [""] * count, rotation=90, fontsize=_SIZE - 3, family="monospace")
        axes.set_ylabel("probability", fontsize=_SIZE - 1)
        axes.set_xlabel("outcome, qubit 0 on the right", fontsize=_SIZE - 1)
        axes.legend(fontsize=_SIZE - 2, loc="upper right", ncols=len(self._names), frameon=False)
        self._title = axes.set_title("", fontsize=_SIZE - 1)
        self._moving = [self._title, *(bar for bars in self._bars.values() for bar in bars)]
        for artist in self._moving:
            artist.set_animated(True)
        self._drawn: tuple[float, list[str]] | None = None  # what the background was drawn for
        self._background: Any = None

    def draw(self, distributions: Mapping[str, NDArray[np.floating]]) -> NDArray[np.uint8]:
        """Draw the image, (height, width, 3).

        Args:
            distributions: distributions (O,) by name, including "exact". The title gives their total-variation
                distances from it.
        """
        exact = distributions["exact"]
        shown, labels = np.arange(len(exact)), [f"{k:0{self._num_qubits}b}" for k in range(len(exact))]
        rest = len(exact) > BARS
        if rest:
            shown = np.sort(np.argsort(-exact, kind="stable")[: BARS - 1])
            labels = [*(labels[k] for k in shown), "others"]
        top = 0.0
        for name in self._names:
            p = distributions[name]
            heights = [*p[shown], *([p.sum() - p[shown].sum()] if rest else [])]
            top = max(top, *heights)
            for bar, height in zip(self._bars[name], heights, strict=True):
                bar.set_height(height)
        distances = {name: np.abs(distributions[name] - exact).sum() / 2 for name in self._names[1:]}
        told = ", ".join(f"{name} {distance:.3f}" for name, distance in distances.items())
        self._title.set_text(f"total-variation distance from exact: {told}")
        top = next(edge for edge in (0.1, 0.2, 0.3, 0.5, 0.75, 1.2) if edge > 1.1 * top)  # images are comparable
        if (top, labels) != self._drawn:
            self._axes.set_ylim(0, top)
            self._axes.set_xticklabels(labels)
            self._canvas.draw()
            self._background, self._drawn = self._canvas.copy_from_bbox(self._figure.bbox), (top, labels)
        self._canvas.restore_region(self._background)
        for artist in self._moving:
            self._axes.draw_artist(artist)
        return _buffer(self._canvas)


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Render a figure as an image, (height, width, 3), without a display or global state."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _buffer(canvas)


def _buffer(canvas: FigureCanvasAgg) -> NDArray[np.uint8]:
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=_SIZE - 1)
    return figure, axes
