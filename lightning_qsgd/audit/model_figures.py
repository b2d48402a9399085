"""Pictures of what quantum parts inside of a model do."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lightning_qsgd.audit.figures import NAMES, PARTS, in_words
from lightning_qsgd.audit.model_findings import AttentionFindings, HeadFindings, LayerFindings
from lightning_qsgd.comparison.drawing import INK, MUTED, NARROW, OWN, SHADE, WIDTH, WORSE, Drawing, canvas, style
from lightning_qsgd.comparison.drawing import to_svg as as_svg
from lightning_qsgd.comparison.figures import put_rows
from lightning_qsgd.comparison.numbers import count, listed, number, percent

OUTPUTS = 16  # rows of the picture


def layer_picture(found: LayerFindings) -> Drawing | None:
    """Shares of each output's power, and outputs against the best classical replacement's; None without points."""
    if not found.points:
        return None
    best = next((r for r in found.replacements if r.name == found.compared), None)
    share = percent(best.reproduced) if best else ""
    alt = f"{count(len(found.points), 'point')}: outputs of {found.name} against those of its {found.compared}, which "
    alt += f"reproduces {share} of their mean square."
    if found.shares:
        alt = f"Shares of the power of {count(len(found.outputs), 'output')}; together {in_words(found.shares)}. {alt}"
    caption = (
        f"Each dot is one output for one input that occurred: the circuit's, and that of its {found.compared}. On the "
        "diagonal both agree."
    )
    shown = _shown(found)
    if found.shares:
        caption = f"Left (on a phone: first): what each output's mean square consists of. {caption}"
        caption += f" The {OUTPUTS} outputs with the most power are shown." if len(shown) < len(found.outputs) else ""
    return Drawing("outputs", _layer(found, shown, False), alt, caption, _layer(found, shown, True))


def attention_picture(found: AttentionFindings) -> Drawing | None:
    """What each head adds to a score, and the line of least squares, over the scores that occur; None without heads."""
    if not found.heads:
        return None
    said = [
        f"head {head.head}: {percent(head.linear)} linear, {percent(head.curved)} curved, {percent(head.constant)} "
        "constant"
        for head in found.heads
    ]
    alt = f"What {count(len(found.heads), 'head')} of {found.name} add to a score, over the scores that occur. Of the "
    alt += f"mean square: {listed(said)}."
    caption = (
        "What each head adds to a score (solid), without its mean, which cancels in the softmax; and the line of least "
        "squares (dashed), which only changes the softmax's temperature. Grey: how often scores occur. The axes of the "
        "heads differ."
    )
    return Drawing("heads", _heads(found, False), alt, caption, _heads(found, True))


def _shown(found: LayerFindings) -> list[int]:
    """Outputs with the most power, in order."""
    largest = sorted(range(len(found.per_output)), key=lambda k: -found.per_output[k].power)[:OUTPUTS]
    return sorted(largest)


def _layer(found: LayerFindings, shown: list[int], narrow: bool) -> str:
    panels = 2 if shown else 1
    tall = max(3.6, 1.2 + 0.24 * len(shown))
    with style():
        height = (3.9 + (1.4 + 0.24 * len(shown) if shown else 0)) if narrow else tall
        shape = (panels, 1) if narrow else (1, panels)
        figure, axes = canvas(height, *shape, width=NARROW if narrow else WIDTH)
        if narrow and shown and (grid := axes[0].get_gridspec()):
            grid.set_height_ratios((1.0 + 0.24 * len(shown), 3.4))
        if shown:
            _bars(axes[0], found, shown)
            handles = [Patch(label=NAMES[part], **_look(part)) for part in PARTS]
            columns = 2 if narrow else 4
            figure.legend(handles=handles, loc="outside upper left", ncols=columns, labelcolor=INK, handlelength=1.4)
        _scatter(axes[-1], found)
        return as_svg(figure)


def _bars(axes: Axes, found: LayerFindings, shown: list[int]) -> None:
    left = np.zeros(len(shown))
    for part in PARTS:
        widths = np.array([100 * found.per_output[k].parts()[part] for k in shown])
        axes.barh(range(len(shown)), widths, 0.7, left, **_look(part))
        left += widths
    put_rows(axes, [found.outputs[k] for k in shown])
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the mean square (%)")


def _scatter(axes: Axes, found: LayerFindings) -> None:
    true, classical = np.array(found.points).T
    low, high = min(true.min(), classical.min()), max(true.max(), classical.max())
    pad = 0.05 * (high - low) or 0.05
    axes.axline((0, 0), slope=1, color=MUTED, lw=0.9, ls=(0, (4, 2)), zorder=0)
    axes.plot(true, classical, "o", color=OWN, ms=2.5, alpha=0.35, mew=0)
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(low - pad, high + pad)
    axes.set_box_aspect(1)
    axes.set_xlabel("output of the circuit")
    axes.set_ylabel(f"output of the {found.compared}")


def _heads(found: AttentionFindings, narrow: bool) -> str:
    columns = min(2 if narrow else 4, len(found.heads))
    rows = math.ceil(len(found.heads) / columns)
    with style():
        figure, panels = canvas(0.6 + (1.9 if narrow else 2.3) * rows, rows, columns, width=NARROW if narrow else WIDTH)
        for axes, head in zip(panels, found.heads, strict=False):
            _head(axes, head)
        for axes in panels[len(found.heads) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(found.heads) - columns) : len(found.heads)]:
            axes.set_xlabel("score")
        for axes in panels[::columns]:
            axes.set_ylabel("added to it")
        return as_svg(figure)


def _head(axes: Axes, head: HeadFindings) -> None:
    scores, added, line = np.array(head.curve).T
    top, bottom = max(added.max(), line.max()), min(added.min(), line.min())
    pad = 0.08 * (top - bottom) or 0.05
    counts = np.array(head.density)
    if scores[-1] > scores[0]:
        edges = np.linspace(scores[0], scores[-1], len(counts) + 1)
        heights = 0.9 * counts / counts.max() * (top - bottom + 2 * pad)
        axes.stairs(bottom - pad + heights, edges, baseline=bottom - pad, fill=True, color=SHADE, zorder=0)
    axes.plot(scores, line, color=WORSE, lw=1.1, dashes=(4, 2))
    axes.plot(scores, added, color=OWN, lw=1.5)
    axes.set_ylim(bottom - pad, top + pad)
    axes.set_title(f"head {head.head} (scores \u00d7 {number(head.factor, '.3g')})")


def _look(part: str) -> dict:
    hatched = {"hatch": "////", "edgecolor": "#8a8a84"} if part == "rest" else {}
    return {"facecolor": PARTS[part], "linewidth": 0, **hatched}
