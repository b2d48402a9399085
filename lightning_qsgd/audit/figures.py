"""Figures of an audit: a perturbation's power over time and by tensor, its s; a layer's outputs; a head's scores."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from lightning_qsgd.audit.conclusions import NAMES, in_words
from lightning_qsgd.audit.findings import (
    AttentionFindings,
    HeadFindings,
    LayerFindings,
    PerturbationFindings,
    Shares,
)
from lightning_qsgd.report.drawing import (
    INK,
    MUTED,
    OWN,
    SHADE,
    WORSE,
    Drawing,
    canvas,
    hide,
    put_rows,
    put_texts,
    style,
    to_svg,
)
from lightning_qsgd.report.numbers import count, listed, number, percent

LEAST = 0.007  # percent
OUTPUTS = 16  # rows of a layer's picture
MOST_ROWS = 40
FEW_ROWS = 10  # a map of fewer modules says too little
LONGEST = 52  # characters in a name
HATCH = "#4A4A46"
PARTS = {"constant": "#A9A9A3", "single": OWN, "multi": "#E69F00", "rest": "#FFFFFF"}


def power_over_time(findings: PerturbationFindings) -> Drawing | None:
    """Mean square of s and its four parts over optimizer steps, absolute and as shares; None where s is 0."""
    spans = findings.over_time
    if not any(span.power for span in spans.values()):
        return None
    first, last = (next(iter(order)) for order in (spans.values(), reversed(spans.values())))
    alt = f"Power of the modulation over {count(len(spans), 'span')} of optimizer steps. "
    alt += f"First span: mean square {number(first.power)}, of which {in_words(first)}."
    alt += f" Last span: {number(last.power)}, of which {in_words(last)}." if len(spans) > 1 else ""
    caption = (
        "Power (mean of s\u00b2) over the training run: first its size, cut into the four parts, then their shares on "
        f"a logarithmic axis (below {LEAST:g} % not shown; rest is dashed). Each span of steps is split by itself: "
        "what is constant within a span, but differs between spans, counts as constant here. In the legend: shares of "
        "the whole run."
    )
    return Drawing("power", _over_time(findings), alt, caption)


def layers(findings: PerturbationFindings) -> Drawing | None:
    """The four shares of each tensor, or of each module if there are many tensors; None if there are none."""
    tensors = {name: shares for name, shares in findings.per_tensor.items() if shares.power}
    if not tensors:
        return None
    rows = grouped(tensors)
    names = short_names(list(rows))
    labels = [
        f"{name} ({len(members)})" if len(members) > 1 else name
        for name, members in zip(names, rows.values(), strict=True)
    ]
    shares = [together(members) for members in rows.values()]
    by = ", put together by module (number of tensors in brackets)" if len(rows) < len(tensors) else ""
    alt = f"Shares of power of {count(len(rows), 'row')}, for {count(len(tensors), 'tensor')} in the model's order."
    for part, name in NAMES.items():
        sizes = [share.parts()[part] for share in shares]
        top = int(np.argmax(sizes))
        alt += f" Most {name}: {labels[top]}, {percent(sizes[top])}." if sizes[top] > 0 else f" Nothing is {name}."
    caption = (
        f"Shares of the power of each tensor, in the model's order{by}; at the right its power (mean of s\u00b2), and "
        "the share that is not constant. Each tensor is split by itself: a constant that differs between tensors "
        "counts as constant here, but not in the whole run's shares."
    )
    prefix = common_prefix(list(rows))
    caption += f" All names begin with \u201c{prefix}\u201d, left out here." if prefix else ""
    silent = len(findings.per_tensor) - len(tensors)
    caption += f" Not shown: {count(silent, 'tensor')} on which s is 0." if silent else ""
    return Drawing("layers", _map(labels, shares), alt, f"{caption}{left_out(findings)}")


def modulation(findings: PerturbationFindings) -> Drawing | None:
    """s against the best classical map, and the share that each map reproduces; None without points, or if s is 0."""
    best, points = findings.points
    if not points or not findings.shares.power:
        return None
    share = findings.maps.get(best)
    said = (
        f"\u201c{best}\u201d reproduces {percent(share)} of the power"
        if share is not None
        else f"map: \u201c{best}\u201d"
    )
    low, high = (number(f(true for true, _ in points), ".2f") for f in (min, max))
    alt = f"{count(len(points), 'point')}: s between {low} and {high}, against the best classical map; {said}."
    others = [f"{name} {percent(value)}" for name, value in findings.maps.items() if name != best]
    alt += f" Other maps: {listed(others)}." if others else ""
    caption = (
        "Each dot is one coordinate in one step: its s, and what the best classical map gives in its place; on the "
        f"diagonal both agree. {said[0].upper()}{said[1:]}: that is 1 minus the mean squared distance over the mean of "
        "s\u00b2, like R\u00b2, but with the constant counted in. The bars are the same for all maps; at 0 or below, a "
        "map is no better than s = 0."
    )
    return Drawing("modulation", _modulation(findings), alt, caption)


def left_out(findings: PerturbationFindings) -> str:
    """A sentence, after a space, about tensors that have no split; "" if all have one."""
    missing = findings.shares.rows - sum(shares.rows for shares in findings.per_tensor.values())
    if missing <= 0 or not findings.shares.rows:
        return ""
    share = percent(missing / findings.shares.rows)
    return f" Tensors with too few recorded blocks for a split of their own ({share} of all blocks) are left out."


def _over_time(findings: PerturbationFindings) -> str:
    spans, steps = list(findings.over_time.values()), findings.steps
    gap = steps[-1] - steps[-2] if len(steps) > 1 else 1
    edges = np.array([*findings.over_time, max([*steps, *findings.over_time]) + gap])
    power = np.array([span.power for span in spans])
    shares = np.array([list(span.parts().values()) for span in spans]).T
    with style():
        figure, panels = canvas(2.9, 1, 2, sharex=True)
        heights = np.vstack([np.zeros(len(spans)), np.cumsum(shares * power, axis=0)])
        heights = np.hstack([heights, heights[:, -1:]])
        for low, high, share, part in zip(heights, heights[1:], shares, PARTS, strict=False):
            panels[0].fill_between(edges, low, high, step="post", **_look(part))
            color, dashes = (HATCH, "--") if part == "rest" else (PARTS[part], "-")
            shown = np.where(share > 0, 100 * share, np.nan)
            panels[1].stairs(shown, edges, baseline=None, lw=1.8, color=color, ls=dashes)
        panels[0].set_xlim(edges[0], edges[-1])
        panels[0].set_ylim(0, 1.05 * power.max())
        panels[0].set_ylabel("mean of s\u00b2")
        panels[1].set_yscale("log")
        panels[1].set_ylim(LEAST, 150)
        panels[1].yaxis.set_major_formatter(lambda x, _: f"{x:g}")
        panels[1].yaxis.set_minor_locator(NullLocator())
        panels[1].grid(axis="y", color=SHADE)
        panels[1].set_ylabel("share of it (%)")
        for axes in panels:
            axes.set_xlabel("optimizer step")
        _legend(figure, findings.shares)
        return to_svg(figure)


def _map(labels: Sequence[str], shares: Sequence[Shares]) -> str:
    with style():
        figure, (axes,) = canvas(0.95 + 0.22 * len(labels))
        left = np.zeros(len(labels))
        for part in PARTS:
            widths = np.array([100 * share.parts()[part] for share in shares])
            axes.barh(range(len(labels)), widths, 0.72, left, **_look(part))
            left += widths
        beside = [
            f"{number(share.power, '#.3g')}   {percent(share.single + share.multi + share.rest)}" for share in shares
        ]
        put_rows(axes, labels)
        put_texts(axes, beside)
        axes.set_title("mean of s\u00b2, not constant", loc="right", fontsize=8)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the power (%)")
        _legend(figure)
        return to_svg(figure)


def _modulation(findings: PerturbationFindings) -> str:
    best, points = findings.points
    with style():
        figure, (scatter, bars) = canvas(4.1, 1, 2)
        _scatter(scatter, points)
        scatter.locator_params(nbins=5)
        scatter.set_xlabel("s of the run")
        scatter.set_ylabel(f"s of the map \u201c{best}\u201d")
        names, values = list(findings.maps), np.array(list(findings.maps.values()))
        colors = [OWN if name == best else "#A9C6D8" for name in names]
        bars.barh(range(len(names)), 100 * values.clip(0, 1), 0.6, color=colors)
        put_rows(bars, names)
        put_texts(bars, [percent(value) for value in values])
        bars.set_xlim(0, 100)
        bars.grid(axis="x", color=SHADE)
        bars.set_axisbelow(True)
        bars.set_xlabel("share of the power that the map reproduces (%)")
        return to_svg(figure)


def _look(part: str) -> dict:
    """The style of a part's area. The rest, which is not a function of the angles, is hatched."""
    hatched = {"hatch": "////", "edgecolor": HATCH} if part == "rest" else {}
    return {"facecolor": PARTS[part], "linewidth": 0, **hatched}


def _legend(figure: Figure, shares: Shares | None = None) -> None:
    sizes = {part: f": {percent(share)}" for part, share in shares.parts().items()} if shares else {}
    handles = [Patch(label=NAMES[part] + sizes.get(part, ""), **_look(part)) for part in PARTS]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, labelcolor=INK, handlelength=1.4)


def _scatter(axes: Axes, points: Sequence[Sequence[float]]) -> None:
    """Draw pairs (true, classical), and the diagonal on which both agree."""
    true, classical = np.array(points).T
    low, high = min(true.min(), classical.min()), max(true.max(), classical.max())
    pad = 0.05 * (high - low) or 0.05
    axes.axline((0, 0), slope=1, color=MUTED, lw=0.9, ls=(0, (4, 2)), zorder=0)
    axes.plot(true, classical, "o", color=OWN, ms=3, alpha=0.4, mew=0)
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(low - pad, high + pad)
    axes.set_box_aspect(1)


def layer_picture(found: LayerFindings) -> Drawing | None:
    """Shares of each output's power, and outputs against those of the best replacement; None without points."""
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
        caption = f"Left: what each output's mean square consists of. {caption}"
        caption += f" The {OUTPUTS} outputs with the most power are shown." if len(shown) < len(found.outputs) else ""
    return Drawing("outputs", _layer(found, shown), alt, caption)


def attention_picture(found: AttentionFindings) -> Drawing | None:
    """What each head adds to a score, and its least-squares line, over recorded scores; None without heads."""
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
    return Drawing("heads", _heads(found), alt, caption)


def _shown(found: LayerFindings) -> list[int]:
    """The outputs with the most power, in order."""
    largest = sorted(range(len(found.per_output)), key=lambda k: -found.per_output[k].power)[:OUTPUTS]
    return sorted(largest)


def _layer(found: LayerFindings, shown: list[int]) -> str:
    with style():
        figure, axes = canvas(max(3.6, 1.2 + 0.24 * len(shown)), 1, 2 if shown else 1)
        if shown:
            _bars(axes[0], found, shown)
            _legend(figure)
        _scatter(axes[-1], found.points)
        axes[-1].set_xlabel("output of the circuit")
        axes[-1].set_ylabel(f"output of the {found.compared}")
        return to_svg(figure)


def _bars(axes: Axes, found: LayerFindings, shown: list[int]) -> None:
    left = np.zeros(len(shown))
    for part in PARTS:
        widths = np.array([100 * found.per_output[k].parts()[part] for k in shown])
        axes.barh(range(len(shown)), widths, 0.7, left, **_look(part))
        left += widths
    put_rows(axes, [found.outputs[k] for k in shown])
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the mean square (%)")


def _heads(found: AttentionFindings) -> str:
    columns = min(4, len(found.heads))
    rows = math.ceil(len(found.heads) / columns)
    with style():
        figure, panels = canvas(0.6 + 2.3 * rows, rows, columns)
        for axes, head in zip(panels, found.heads, strict=False):
            _head(axes, head)
        hide(panels[len(found.heads) :])
        for axes in panels[max(0, len(found.heads) - columns) : len(found.heads)]:
            axes.set_xlabel("score")
        for axes in panels[::columns]:
            axes.set_ylabel("added to it")
        return to_svg(figure)


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


def together(members: Sequence[Shares]) -> Shares:
    """Shares of several tensors together, weighted by the number of values that their blocks represent."""
    weight = sum(shares.weight for shares in members)
    power = sum(shares.weight * shares.power for shares in members) / (weight or 1.0)
    parts = {
        part: sum(s.weight * s.power * s.parts()[part] for s in members) / (weight * power) if power else 0.0
        for part in members[0].parts()
    }
    return Shares(**parts, power=power, rows=sum(shares.rows for shares in members), weight=weight)


def grouped(tensors: Mapping[str, Shares]) -> dict[str, list[Shares]]:
    """Rows of a map, in the model's order: tensors; modules where there are too many; runs of them if that fails.

    Args:
        tensors: shares by the parameter's name.

    Returns:
        At most 40 rows, with the tensors of each.
    """
    rows = {name: [shares] for name, shares in tensors.items()}
    for depth in range(max(name.count(".") for name in tensors), 0, -1):
        if len(rows) <= MOST_ROWS:
            return rows
        coarser: dict[str, list[Shares]] = {}
        for name, shares in tensors.items():
            coarser.setdefault(".".join(name.split(".")[:depth]), []).append(shares)
        if len(coarser) < FEW_ROWS:
            break
        rows = coarser
    size = -(-len(rows) // MOST_ROWS)
    runs = [list(run) for _, run in groupby(enumerate(rows), lambda item: item[0] // size)]
    return {
        run[0][1] + (f" to {run[-1][1]}" if len(run) > 1 else ""): [shares for _, name in run for shares in rows[name]]
        for run in runs
    }


def common_prefix(names: Sequence[str]) -> str:
    """The common beginning of all names, up to a dot that no number follows; "" for a single name."""
    parts = [name.split(".")[:-1] for name in names]
    same = 0
    while len(names) > 1 and all(len(p) > same and p[same] == parts[0][same] for p in parts):
        same += 1
    if same and any(name.split(".")[same].isdigit() for name in names):
        same -= 1
    return "".join(f"{part}." for part in parts[0][:same])


def short_names(names: Sequence[str]) -> list[str]:
    """Names without their common beginning, and without the middle of those that are too long."""
    kept = [name.removeprefix(common_prefix(names)) for name in names]
    half = LONGEST // 2
    return [name if len(name) <= LONGEST else f"{name[: half - 1]}\u2026{name[-half:]}" for name in kept]
