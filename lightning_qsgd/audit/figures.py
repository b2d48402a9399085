"""Figures of an audited perturbation: power over time, a map per tensor, true against classical modulation."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lightning_qsgd.audit.findings import PerturbationFindings, Shares
from lightning_qsgd.audit.grouping import common_prefix, grouped, short_names, together
from lightning_qsgd.comparison.drawing import INK, MUTED, NARROW, OWN, SHADE, WIDTH, Drawing, canvas, style, to_svg
from lightning_qsgd.comparison.figures import put_rows
from lightning_qsgd.comparison.numbers import count, listed, number, percent

PARTS = {"constant": "#A9A9A3", "single": OWN, "multi": "#E69F00", "rest": "#FFFFFF"}
NAMES = {"constant": "constant", "single": "single-angle", "multi": "multi-angle", "rest": "rest"}


def power_over_time(findings: PerturbationFindings) -> Drawing | None:
    """Mean square of s and its four parts over optimizer steps, absolute and as shares; None where s is 0."""
    spans = findings.over_time
    if not any(span.power for span in spans.values()):
        return None
    wide, narrow = (_over_time(findings, narrow) for narrow in (False, True))
    first, last = (next(iter(order)) for order in (spans.values(), reversed(spans.values())))
    alt = f"Power of the modulation over {count(len(spans), 'span')} of optimizer steps. "
    alt += f"First span: mean square {number(first.power)}, of which {in_words(first)}."
    alt += f" Last span: {number(last.power)}, of which {in_words(last)}." if len(spans) > 1 else ""
    caption = (
        "Power (mean of s\u00b2) over the training run: first its size, cut into the four parts, then their shares. "
        "Each span of steps is split by itself: what is constant within a span, but differs between spans, counts as "
        "constant here. In the legend: shares of the whole run."
    )
    return Drawing("power", wide, alt, caption, narrow)


def layers(findings: PerturbationFindings) -> Drawing | None:
    """The four shares of each tensor, or of each module where there are many; None where there is nothing to show."""
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
    wide, narrow = (_map(labels, shares, narrow) for narrow in (False, True))
    by = ", put together by module (number of tensors in brackets)" if len(rows) < len(tensors) else ""
    alt = f"Shares of power of {count(len(rows), 'row')}, for {count(len(tensors), 'tensor')} in the model's order."
    for part, name in NAMES.items():
        sizes = [share.parts()[part] for share in shares]
        top = int(np.argmax(sizes))
        alt += f" Most {name}: {labels[top]}, {percent(sizes[top])}." if sizes[top] > 0 else f" Nothing is {name}."
    caption = (
        f"Shares of the power of each tensor, in the model's order{by}; at the right its power (mean of s\u00b2). Each "
        "tensor is split by itself: a constant that differs between tensors counts as constant here, but not in the "
        "whole run's shares."
    )
    prefix = common_prefix(list(rows))
    caption += f" All names begin with \u201c{prefix}\u201d, left out here." if prefix else ""
    silent = len(findings.per_tensor) - len(tensors)
    caption += f" Not shown: {count(silent, 'tensor')} on which s is 0." if silent else ""
    return Drawing("layers", wide, alt, f"{caption}{left_out(findings)}", narrow)


def modulation(findings: PerturbationFindings) -> Drawing | None:
    """s against the best classical map's, and what each map reproduces; None without points, or where s is 0."""
    best, points = findings.points
    if not points or not findings.shares.power:
        return None
    wide, narrow = (_modulation(findings, narrow) for narrow in (False, True))
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
    return Drawing("modulation", wide, alt, caption, narrow)


def in_words(shares: Shares) -> str:
    """The four shares in a sentence."""
    return listed([f"{percent(share)} {NAMES[part]}" for part, share in shares.parts().items()])


def left_out(findings: PerturbationFindings) -> str:
    """A sentence, after a space, about tensors that have no split of their own; "" where all have one."""
    missing = findings.shares.rows - sum(shares.rows for shares in findings.per_tensor.values())
    if missing <= 0 or not findings.shares.rows:
        return ""
    share = percent(missing / findings.shares.rows)
    return f" Tensors with too few recorded blocks for a split of their own ({share} of all blocks) are left out."


def _over_time(findings: PerturbationFindings, narrow: bool) -> str:
    spans, steps = list(findings.over_time.values()), findings.steps
    gap = steps[-1] - steps[-2] if len(steps) > 1 else 1
    edges = np.array([*findings.over_time, max([*steps, *findings.over_time]) + gap])
    power = np.array([span.power for span in spans])
    shares = np.array([list(span.parts().values()) for span in spans]).T
    with style():
        size = (5.2, 2, 1, NARROW) if narrow else (2.9, 1, 2, WIDTH)
        figure, panels = canvas(size[0], size[1], size[2], sharex=True, width=size[3])
        for axes, scale in zip(panels, (power, 100 * (power > 0)), strict=True):
            heights = np.vstack([np.zeros(len(spans)), np.cumsum(shares * scale, axis=0)])
            heights = np.hstack([heights, heights[:, -1:]])
            for low, high, part in zip(heights, heights[1:], PARTS, strict=False):
                axes.fill_between(edges, low, high, step="post", **_look(part))
            axes.set_xlim(edges[0], edges[-1])
        panels[0].set_ylim(0, 1.05 * power.max())
        panels[0].set_ylabel("mean of s\u00b2")
        panels[1].set_ylim(0, 100)
        panels[1].set_ylabel("share of it (%)")
        for axes in panels[narrow:]:
            axes.set_xlabel("optimizer step")
        _legend(figure, findings.shares, narrow)
        return to_svg(figure)


def _map(labels: Sequence[str], shares: Sequence[Shares], narrow: bool) -> str:
    with style():
        figure, (axes,) = canvas(0.95 + (0.4 if narrow else 0.22) * len(labels), width=NARROW if narrow else WIDTH)
        left = np.zeros(len(labels))
        for part in PARTS:
            widths = np.array([100 * share.parts()[part] for share in shares])
            axes.barh(range(len(labels)), widths, 0.5 if narrow else 0.72, left, **_look(part))
            left += widths
        powers = [number(share.power, ".3g") for share in shares]
        put_rows(axes, ["" for _ in labels] if narrow else list(labels))
        if narrow:
            for y, (label, power) in enumerate(zip(labels, powers, strict=True)):
                axes.text(0, y - 0.3, label, transform=axes.get_yaxis_transform(), fontsize=7)
                axes.text(1, y - 0.3, power, transform=axes.get_yaxis_transform(), fontsize=7, ha="right")
            axes.set_ylim(len(labels) - 0.6, -0.8)
        else:
            _right_labels(axes, powers)
        axes.set_title("mean of s\u00b2", loc="right", fontsize=8.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the power (%)")
        _legend(figure, None, narrow)
        return to_svg(figure)


def _modulation(findings: PerturbationFindings, narrow: bool) -> str:
    best, points = findings.points
    true, classical = np.array(points).T
    low, high = min(true.min(), classical.min()), max(true.max(), classical.max())
    pad = 0.05 * (high - low) or 0.05
    with style():
        size = (7.0, 2, 1, NARROW) if narrow else (4.1, 1, 2, WIDTH)
        figure, (scatter, bars) = canvas(size[0], size[1], size[2], width=size[3])
        if narrow and (grid := scatter.get_gridspec()):
            grid.set_height_ratios((1.6, 1))
        scatter.axline((0, 0), slope=1, color=MUTED, lw=0.9, ls=(0, (4, 2)), zorder=0)
        scatter.plot(true, classical, "o", color=OWN, ms=3, alpha=0.4, mew=0)
        scatter.set_xlim(low - pad, high + pad)
        scatter.set_ylim(low - pad, high + pad)
        scatter.set_box_aspect(1)
        scatter.set_xlabel("s of the run")
        scatter.set_ylabel(f"s of the map \u201c{best}\u201d")
        names, values = list(findings.maps), np.array(list(findings.maps.values()))
        colors = [OWN if name == best else "#A9C6D8" for name in names]
        bars.barh(range(len(names)), 100 * values.clip(0, 1), 0.6, color=colors)
        put_rows(bars, names)
        _right_labels(bars, [percent(value) for value in values])
        bars.set_xlim(0, 100)
        bars.grid(axis="x", color=SHADE)
        bars.set_axisbelow(True)
        bars.set_xlabel("share of the power that the map reproduces (%)")
        return to_svg(figure)


def _look(part: str) -> dict:
    """Of a part's area: the rest, which is no function of the angles, is hatched."""
    hatched = {"hatch": "////", "edgecolor": "#8a8a84"} if part == "rest" else {}
    return {"facecolor": PARTS[part], "linewidth": 0, **hatched}


def _right_labels(axes: Axes, texts: list[str]) -> None:
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(texts)), texts)
    right.spines["right"].set_visible(False)
    right.tick_params(length=0)


def _legend(figure: Figure, shares: Shares | None, narrow: bool) -> None:
    parts = shares.parts() if shares else dict.fromkeys(PARTS)
    labels = {part: NAMES[part] + (f": {percent(share)}" if share is not None else "") for part, share in parts.items()}
    handles = [Patch(label=labels[part], **_look(part)) for part in PARTS]
    figure.legend(handles=handles, loc="outside upper left", ncols=2 if narrow else 4, labelcolor=INK, handlelength=1.4)
