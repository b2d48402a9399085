"""Tables and the picture of landscapes.py."""

from collections.abc import Iterable
from typing import IO, Any

import numpy as np
from scipy import stats

#: Does displacing help, does its kind matter, do the circuit's answers to the weights help, does entanglement?
CONTRASTS = (
    ("sign", "Adam, beta1 0.9"),
    ("sign", "Adam"),
    ("sign, beta1 0", "Adam"),
    ("sign", "Langevin"),
    ("sign", "Gaussian"),
    ("circuit", "sign"),
    ("circuit, beta1 0", "sign, beta1 0"),
    ("circuit, not centred", "sign"),
    ("circuit, entangled", "sign"),
)
COLOURS = {
    "Adam": "#555555",
    "Langevin": "#b8860b",
    "SAM": "#8c564b",
    "Gaussian": "#1f77b4",
    "sign": "#2ca02c",
    "circuit": "#d62728",
    "circuit, not centred": "#9467bd",
}
DASHED = ("circuit", "circuit, not centred")  # they may lie on other lines


def tables(results: list[dict[str, Any]]) -> str:
    """Markdown: for each landscape its methods, mean and standard deviation over seeds; then the paired contrasts."""
    names = list(dict.fromkeys(result["landscape"] for result in results))
    return "\n\n".join([_methods(name, [r for r in results if r["landscape"] == name]) for name in names]) + (
        "\n\n" + _contrasts(results, names) + "\n"
    )


def paired(a: Iterable[float], b: Iterable[float]) -> tuple[float, float, float]:
    """Mean of a - b and its 95 % interval (paired t)."""
    differences = np.subtract(list(a), list(b))
    n = len(differences)
    half = float(stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    mean = float(differences.mean())
    return mean, mean - half, mean + half


def _methods(landscape: str, results: list[dict[str, Any]]) -> str:
    lines = [
        f"{landscape}:",
        "",
        "| method | solved, % | median final value | learning rate | own setting | trials |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        setting = result["setting"]
        edge = f" (edge: {', '.join(result['edges'])})" if result["edges"] else ""
        own = f"{setting['own_name']} {setting['own']:.4g}{edge}"
        solved = 100 * np.array(result["solved"])
        lines.append(
            f"| {result['method']} | {solved.mean():.1f} +- {solved.std(ddof=1):.1f} | {_spread(result['median'])} "
            f"| {setting['lr']:.4g}, {setting['schedule']} | {own} | {result['trials']} |"
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.3g} +- {np.std(values, ddof=1):.2g}"


def _contrasts(results: list[dict[str, Any]], names: list[str]) -> str:
    found = {(r["landscape"], r["method"]): r for r in results}
    lines = [
        "Paired differences, mean and 95 % interval over seeds:",
        "",
        "| contrast | " + " | ".join(f"{name}, solved, points | {name}, median" for name in names) + " |",
        "|---" * (1 + 2 * len(names)) + "|",
    ]
    for first, second in CONTRASTS:
        cells = []
        for name in names:
            a, b = found[name, first], found[name, second]
            for key, scale, digits in (("solved", 100, ".1f"), ("median", 1, ".3g")):
                mean, low, high = (scale * value + 0.0 for value in paired(a[key], b[key]))
                cells.append(f"{mean:{digits}} [{low:{digits}}, {high:{digits}}]")
        lines.append(f"| {first} minus {second} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: list[dict[str, Any]], gradients: int, file: IO[bytes]) -> None:
    """PNG: median value at the undisplaced weights against gradients taken, with quartiles; one panel a landscape."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(result["landscape"] for result in results))
    figure = Figure(figsize=(4.6 * len(names), 3.9), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for result in results:
            if result["landscape"] != name or (colour := COLOURS.get(result["method"])) is None:
                continue
            low, median, high = result["curve_quartiles"]
            taken = np.linspace(0, gradients, len(median) + 1)[1:]
            style = "--" if result["method"] in DASHED else "-"
            axes.plot(taken, median, style, color=colour, label=result["method"], linewidth=1.5)
            axes.fill_between(taken, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set(title=f"{name}, rotated, 10 dimensions", xlabel="gradients per start", yscale="log")
        axes.set_ylabel("value at the undisplaced weights")
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, format="png", dpi=110)
