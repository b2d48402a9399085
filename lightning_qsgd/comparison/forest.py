"""Figures of the declared contrasts: intervals, and differences seed by seed."""

import math

from matplotlib.axes import Axes

from lightning_qsgd.comparison.analysis import Analysis
from lightning_qsgd.comparison.drawing import (
    BETTER,
    INK,
    MUTED,
    NARROW,
    OWN,
    SHADE,
    WIDTH,
    WORSE,
    Drawing,
    canvas,
    reach,
    style,
    to_svg,
)
from lightning_qsgd.comparison.figures import put_rows
from lightning_qsgd.comparison.judging import ContrastAnalysis
from lightning_qsgd.comparison.numbers import Numbers, count
from lightning_qsgd.comparison.tables import numbers_of


def forest(analysis: Analysis) -> Drawing | None:
    """Mean difference and simultaneous interval of each declared contrast; None without contrasts that have pairs."""
    rows, sized = _rows(analysis)
    if not rows:
        return None
    numbers, margin = numbers_of(analysis), analysis.results.comparison.metric.margin
    ends = [
        x for row in sized for x in (row.judgement.paired.mean, row.judgement.paired.low, row.judgement.paired.high)
    ]
    limit = reach(ends, margin)
    wide, narrow = (_forest(analysis, rows, limit, narrow) for narrow in (False, True))
    above = sum(row.judgement.paired.low > 0 for row in sized)
    below = sum(row.judgement.paired.high < 0 for row in sized)
    alt = (
        f"Forest plot of {count(len(rows), 'contrast')}: {above} with an interval above 0, {below} below 0, "
        f"{len(sized) - above - below} around 0."
    )
    if sized:
        top = max(sized, key=lambda row: row.judgement.paired.mean)
        bottom = min(sized, key=lambda row: row.judgement.paired.mean)
        alt += f" Largest mean difference {_text(numbers, top.judgement.paired.mean)} ({top.contrast.name}), smallest "
        alt += f"{_text(numbers, bottom.judgement.paired.mean)} ({bottom.contrast.name})."
    gone = [f"{row.contrast.name} ({row.judgement.diverged})" for row in rows if row.judgement.diverged]
    alt += f" Marked at the edge, without a size: {', '.join(gone)}." if gone else ""
    caption = (
        "Mean paired differences of the declared contrasts with simultaneous intervals. The band is the margin; hollow "
        "marks are exploratory; triangles lie beyond the axis, or stand for contrasts with diverged runs."
    )
    return Drawing("contrasts", wide, alt, caption, narrow)


def _rows(analysis: Analysis) -> tuple[list[ContrastAnalysis], list[ContrastAnalysis]]:
    """Contrasts that have pairs, and those of them whose differences have a size."""
    rows = [item for item in analysis.contrasts if item.judgement.paired.n]
    return rows, [row for row in rows if not row.judgement.diverged]


def _forest(analysis: Analysis, rows: list[ContrastAnalysis], limit: float, narrow: bool) -> str:
    """The picture; narrow with all of a row's text above its mark, as it is read on a phone."""
    factor, margin = numbers_of(analysis).factor, analysis.results.comparison.metric.margin
    with style():
        figure, (axes,) = canvas(0.75 + (0.4 if narrow else 0.24) * len(rows), width=NARROW if narrow else WIDTH)
        _margin(axes, margin, numbers_of(analysis), limit)
        for y, row in enumerate(rows):
            p, color = row.judgement.paired, _color(row)
            filled = color if not row.judgement.exploratory else "white"
            mean = p.mean
            if row.judgement.diverged:
                mean = math.copysign(2 * limit, p.mean)  # beyond the axis: a triangle
            else:
                low, high = (max(-limit, min(limit, x)) if math.isfinite(x) else mean for x in (p.low, p.high))
                axes.plot([low * factor, high * factor], [y, y], color=color, lw=1.6, solid_capstyle="butt")
            _dots(axes, [mean], y, limit, factor, color=color, markersize=5.5, markerfacecolor=filled)
        gates = ["  (gatekeeper)" if _is_gate(analysis, row) else "" for row in rows]
        labels = [f"{row.contrast.name}{gate}" for row, gate in zip(rows, gates, strict=True)]
        shown = [f"{_size(analysis, row)}   {row.judgement.verdict}" for row in rows]
        if narrow:
            put_rows(axes, ["" for _ in rows])
            for y, (label, size) in enumerate(zip(labels, shown, strict=True)):
                axes.text(0, y - 0.3, label, transform=axes.get_yaxis_transform(), fontsize=7.5)
                axes.text(1, y - 0.3, size, transform=axes.get_yaxis_transform(), fontsize=7.5, ha="right")
            axes.set_ylim(len(rows) - 0.6, -0.8)
        else:
            put_rows(axes, labels)
            texts = axes.secondary_yaxis("right")
            texts.set_yticks(range(len(rows)), shown)
            texts.spines["right"].set_visible(False)
            texts.tick_params(length=0)
        axes.set_xlabel(_difference_label(analysis))
        return to_svg(figure)


def differences(analysis: Analysis) -> Drawing | None:
    """One dot for each seed of each declared contrast; None without pairs."""
    rows, sized = _rows(analysis)
    if not rows:
        return None
    numbers, margin = numbers_of(analysis), analysis.results.comparison.metric.margin
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


def _text(numbers: Numbers, x: float) -> str:
    return numbers.with_unit(numbers.difference(x), difference=True)


def _difference_label(analysis: Analysis) -> str:
    metric, unit = analysis.results.comparison.metric, numbers_of(analysis).unit
    sign = "" if metric.mode == "max" else ", positive is better"
    return f"difference in {metric.name}{f' ({unit})' if unit else ''}{sign}"


def _margin(axes: Axes, margin: float, numbers: Numbers, limit: float) -> None:
    axes.axvspan(-margin * numbers.factor, margin * numbers.factor, color=SHADE, lw=0)
    axes.axvline(0, color=MUTED, lw=0.9)
    axes.set_xlim(-1.03 * limit * numbers.factor, 1.03 * limit * numbers.factor)


def _dots(axes: Axes, values, y: float, limit: float, factor: float, **style) -> None:
    """Dots in one row; a triangle at the edge for each value beyond it."""
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
    """The mean difference, or how many runs diverged."""
    if not row.judgement.diverged:
        return numbers_of(analysis).difference(row.judgement.paired.mean)
    own = analysis.arms[row.contrast.arm].diverged
    return own or f"{row.contrast.against}: {analysis.arms[row.contrast.against].diverged}"
