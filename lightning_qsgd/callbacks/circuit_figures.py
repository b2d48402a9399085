"""Pictures of a circuit: its drawing, and its outcomes beside the exact ones. Shapes: O = 2**n outcomes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

BARS = 16  # outcomes that fit beside each other
_SIZE = 12  # of letters, in points: TensorBoard shows pictures at half their size
_COLOURS = {"exact": "0.75", "measured": "tab:blue", "series": "tab:orange"}


def drawing_image(drawing: str) -> NDArray[np.uint8]:
    """A circuit's text drawing as an image (height, width, 3), black on white."""
    lines, size = drawing.splitlines(), 11 / 72  # inches; a letter is 0.602 as wide as high
    width, height = max(map(len, lines)) * 0.602 * size + 0.4, len(lines) * size + 0.4
    figure = Figure(figsize=(width, height), dpi=100)
    font = {"family": "DejaVu Sans Mono", "fontsize": 72 * size, "linespacing": 0.9}
    figure.text(0.2 / width, 0.5, "\n".join(lines), va="center", **font)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _buffer(canvas)


class OutcomePicture:
    """Bars of outcome probabilities, beside the exact ones; axes and their letters are drawn once, which takes longest.

    Args:
        num_qubits: n; beyond 4 the 15 likeliest outcomes are shown, and all others as one.
        names: of the distributions that are drawn beside the exact one.

    Attributes:
        names: as given.
    """

    def __init__(self, num_qubits: int, names: tuple[str, ...]) -> None:
        self.names = names
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
        axes.set_xticks(range(count), [""] * count, rotation=90, fontsize=_SIZE - 2, family="monospace")
        axes.set_ylabel("probability", fontsize=_SIZE)
        axes.set_xlabel("outcome, qubit 0 on the right", fontsize=_SIZE)
        axes.legend(fontsize=_SIZE - 1, loc="upper right", ncols=len(self._names), frameon=False)
        self._title = axes.set_title("", fontsize=_SIZE)
        self._moving = [self._title, *(bar for bars in self._bars.values() for bar in bars)]
        for artist in self._moving:
            artist.set_animated(True)
        self._drawn: tuple[float, list[str]] | None = None  # what the background was drawn for
        self._background: Any = None

    def draw(self, distributions: Mapping[str, NDArray[np.floating]]) -> NDArray[np.uint8]:
        """The image, (height, width, 3).

        Args:
            distributions: (O,) by name, "exact" among them. The title gives each one's total-variation distance.
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
        top = next(edge for edge in (0.1, 0.2, 0.3, 0.5, 0.75, 1.2) if edge > 1.1 * top)  # pictures can be compared
        if (top, labels) != self._drawn:
            self._axes.set_ylim(0, top)
            self._axes.set_xticklabels(labels)
            self._canvas.draw()
            self._background, self._drawn = self._canvas.copy_from_bbox(self._figure.bbox), (top, labels)
        self._canvas.restore_region(self._background)
        for artist in self._moving:
            self._axes.draw_artist(artist)
        return _buffer(self._canvas)


def _buffer(canvas: FigureCanvasAgg) -> NDArray[np.uint8]:
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
