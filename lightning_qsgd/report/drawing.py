"""The style of figures: sizes, colours that colour-blind readers can distinguish, and SVG as text."""

import io
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 9.4  # inches, the width of a page's text at 100 %
INK, MUTED, SHADE = "#1a1a1a", "#6b6b6b", "#e9e9e4"
OWN, BETTER, WORSE = "#0072B2", "#0072B2", "#B5500A"
OTHERS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31", "#A6A6A6")  # after Okabe and Ito
DASHES = ((), (4, 1.5), (1.5, 1), (5, 1.5, 1, 1.5), (6, 1, 3, 1), (2, 2), (7, 2), (1, 2))
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a name may contain a dollar sign
    "svg.hashsalt": "report",  # the same file each time
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Drawing:
    """A figure of a report.

    Attributes:
        name: name of its file, without suffix.
        svg: the figure as SVG.
        alt: a description for readers who cannot see the figure.
        caption: what the figure shows, and how to read it.
    """

    name: str
    svg: str
    alt: str
    caption: str


def style() -> AbstractContextManager[None]:
    """The context in which figures of a report are drawn and saved."""
    return matplotlib.rc_context(STYLE)  # type: ignore[arg-type]


def canvas(
    height: float, rows: int = 1, columns: int = 1, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure of the page's width, and its axes, row by row. Use it within ``with style()``."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).flat)


def to_svg(figure: Figure) -> str:
    """Convert a figure to SVG, without a date."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def reach(values: Sequence[float], least: float) -> float:
    """The limit of an axis around 0 that shows most differences, without outliers such as those of diverged runs."""
    sizes = sorted(abs(value) for value in values if math.isfinite(value))
    if not sizes:
        return 1.5 * least
    far = max(4 * least, 6 * sizes[int(0.8 * (len(sizes) - 1))])
    return 1.08 * max(1.5 * least, *(size for size in sizes if size <= far))


def color_keys(names: Sequence[str]) -> dict[str, tuple[str, tuple[float, ...]]]:
    """A colour and dashes for each name, equal in all panels."""
    return {
        name: (OTHERS[i % len(OTHERS)], DASHES[(i + 1 + i // len(OTHERS)) % len(DASHES)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def put_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Arrange rows from the top, with labels at the left."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def put_texts(axes: Axes, texts: Sequence[str]) -> None:
    """Put a text at the right of each row."""
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(texts)), texts)
    right.spines["right"].set_visible(False)
    right.tick_params(length=0)


def hide(panels: Sequence[Axes]) -> None:
    """Leave panels of a grid empty."""
    for axes in panels:
        axes.set_visible(False)
