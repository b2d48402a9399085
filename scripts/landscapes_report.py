"""Make the tables and the figure of landscapes.py."""

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
STYLES = {
    "Adam, beta1 0.9": ("#999999", "-"),
    "Adam": ("#000000", "-"),
    "Langevin": ("#b8860b", "-"),
    "SAM, beta1 0": ("#8c564b", "--"),
    "Gaussian": ("#1f77b4", "-"),
    "sign": ("#2ca02c", "-"),
    "circuit": ("#d62728", "-"),
    "sign, beta1 0": ("#2ca02c", "--"),
    "circuit, beta1 0": ("#d62728", "--"),
}
Results = list[dict[str, Any]]


def tables(results: Results, primary: dict[str, str]) -> str:
    """Markdown: for each landscape its methods, mean and standard deviation over seeds; then the paired contrasts.

    Args:
        results: of all pairs.
        primary: "solved" or "median" of each landscape, by name.
    """
    parts = [_methods(name, [r for r in results if r["landscape"] == name]) for name in primary]
    return "\n\n".join([*parts, _contrasts(results, primary)]) + "\n"


def paired(a: Iterable[float], b: Iterable[float]) -> tuple[float, float, float]:
    """Mean of a - b and its 95 % interval (paired t)."""
    differences = np.subtract(list(a), list(b))
    n = len(differences)
    half = float(stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    mean = float(differences.mean())
    return mean, mean - half, mean + half


def _methods(landscape: str, results: Results) -> str:
    lines = [
        f"{landscape}:",
        "",
        "| method | solved, % | median final value | learning rate | own setting | trials |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        setting = result["setting"]
        edge = f" (on an edge: {', '.join(result['edges'])})" if result["edges"] else ""
        own = f"{setting['own_name']} {setting['own']:.4g}{edge}"
        solved = 100 * np.array(result["solved"])
        lines.append(
            f"| {result['method']} | {solved.mean():.1f} +- {solved.std(ddof=1):.1f} | {_spread(result['median'])} "
            f"| {setting['lr']:.4g}, {setting['schedule']} | {own} | {result['trials']} |"
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    return f"{mean:.3g} +- {0 if deviation < 1e-9 * mean else deviation:.2g}"


def _contrasts(results: Results, primary: dict[str, str]) -> str:
    found = {(r["landscape"], r["method"]): r for r in results}
    names = [f"{name}, {'solved, points' if key == 'solved' else 'median value'}" for name, key in primary.items()]
    lines = [
        "Paired differences, mean and 95 % interval over seeds:",
        "",
        f"| contrast | {' | '.join(names)} |",
        "|---" * (1 + len(names)) + "|",
    ]
    for first, second in CONTRASTS:
        cells = []
        for name, key in primary.items():
            scale, digits = (100, ".1f") if key == "solved" else (1, ".2f")
            interval = paired(found[name, first][key], found[name, second][key])
            mean, low, high = (format(scale * value, f"z{digits}") for value in interval)
            cells.append(f"{mean} [{low}, {high}]")
        lines.append(f"| {first}, minus {second} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: Results, primary: dict[str, str], gradients: int, file: IO[bytes]) -> None:
    """PNG: each landscape's primary metric at the undisplaced weights against gradients taken.

    The share of starts below the tolerance, or the median value with its quartiles.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(primary), 4.2), layout="constrained")
    for axes, (name, key) in zip(figure.subplots(1, len(primary)), primary.items(), strict=True):
        for result in results:
            if result["landscape"] != name or (style := STYLES.get(result["method"])) is None:
                continue
            colour, line = style
            low, values, high = np.array(result["curve_quartiles"])
            if key == "solved":
                values = 100 * np.array(result["curve_solved"])
            taken = np.linspace(0, gradients, len(values) + 1)[1:]
            axes.plot(taken, values, line, color=colour, label=result["method"], linewidth=1.5)
            if key == "median":
                axes.fill_between(taken, low, high, color=colour, alpha=0.1, linewidth=0)
        axes.set(title=f"{name} (rotated, 10 dimensions)", xlabel="gradients per start")
        axes.set_ylabel("starts below 0.1, %" if key == "solved" else "value: median and quartiles")
        if key == "median":
            axes.set(yscale="log", ylim=(0.5, 1000))
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(file, format="png", dpi=100)
