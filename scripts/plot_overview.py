"""Draw the figure of the README: `python scripts/plot_overview.py` (takes seconds).

It writes docs/images/overview.png: the circuit, its response, and the comparison with its twins, from the values in
docs/results/seqcls_cosine/results.json. The figure depends only on that file.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from norm_ratios import ROOT
from plot_method import BLUE, ORANGE, OTHERS, answers, save

from lightning_qsgd.comparison import Paired, Results, paired
from lightning_qsgd.optim import CircuitPerturbation

RESULTS = ROOT / "docs" / "results" / "seqcls_cosine"
ARMS = {  # names in the figure; arms that run circuits in each step are filled
    "zero-in-0.5": ("the paper's letter", True),
    "zero": ("as large as Adam's step", True),
    "zero/frozen": ("its first numbers, kept", False),
    "zero/constant": ("one number per tensor", False),
    "zero/scalar": ("one number", False),
    "zero/shuffled": ("numbers shuffled", False),
}


def differences(folder: Path = RESULTS) -> dict[str, Paired]:
    """The mean difference of each arm from AdamW over the same seeds, with its 95 % t-interval."""
    results = Results.load(folder)
    spec = results.comparison
    return {arm: paired(*results.pairs(arm, spec.baseline)[:2], spec.metric.margin) for arm in ARMS}


def draw_circuit(axis: Axes) -> None:
    """Draw one layer of the paper's Eq. 5 on four qubits."""
    axis.set(xlim=(-0.5, 9.4), ylim=(-4.3, 0.75))
    axis.axis("off")
    box = {"boxstyle": "square,pad=0.3", "edgecolor": BLUE, "facecolor": "white", "linewidth": 1.2}
    for qubit in range(4):
        y = -qubit
        axis.plot([0.5, 8.3], [y, y], color="0.35", linewidth=1)
        axis.text(0.2, y, rf"$\theta_{qubit + 1}$", ha="right", va="center", fontsize=12)
        for x, name in ((1.0, "$H$"), (2.45, rf"$R_y(\pi\theta_{qubit + 1})$"), (4.3, rf"$R_z(\varphi_{qubit + 1})$")):
            axis.text(x, y, name, ha="center", va="center", fontsize=9, bbox=box)
        axis.text(8.5, y, rf"$s_{qubit + 1}$", va="center", fontsize=12)
    for qubit in range(3):
        x = 5.6 + 0.75 * qubit
        axis.plot([x, x], [-qubit, -qubit - 1.17], color=ORANGE, linewidth=1.5)
        axis.plot(x, -qubit, "o", color=ORANGE, markersize=5)
        axis.plot(x, -qubit - 1, "o", markerfacecolor="none", markeredgecolor=ORANGE, markersize=11)
        axis.plot([x - 0.17, x + 0.17], [-qubit - 1] * 2, color=ORANGE, linewidth=1.5)
    axis.text(4.1, -3.95, "twice; then measure\n$s_k = P(x_k = 1) - P(x_k = 0)$", ha="center", va="center", fontsize=9)


def draw_answer(axis: Axes, qubit: int = 1) -> None:
    """Draw s of one qubit against its weight; the other weights of the block are 0."""
    theta = torch.linspace(-1, 1, 201, dtype=torch.float64)
    weights = torch.zeros(len(theta), 4, dtype=torch.float64)
    weights[:, qubit] = theta
    axis.axvspan(-2 * OTHERS, 2 * OTHERS, color="0.92")
    axis.axhline(0, color="0.8", linewidth=0.8)
    circuits = (
        (CircuitPerturbation(rotations="zero"), BLUE, "paper's circuit"),
        (CircuitPerturbation(), ORANGE, "aligned"),
    )
    for perturbation, color, name in circuits:
        axis.plot(theta, answers(perturbation, weights)[:, qubit], color=color, linewidth=2, label=name)
    axis.plot(theta, torch.sin(math.pi * theta), color="black", linewidth=1, linestyle=":", label=r"$\sin\,\pi\theta$")
    axis.set(xlim=(-1, 1), ylim=(-1.08, 1.45), xlabel=r"weight $\theta$ (grey: where most start)", ylabel="$s$")
    axis.legend(
        loc="upper center", ncols=3, frameon=False, fontsize=8, handlelength=1, columnspacing=0.6, handletextpad=0.4
    )


def draw_comparison(axis: Axes, found: dict[str, Paired]) -> None:
    """Draw mean differences from AdamW with their intervals."""
    axis.axvline(0, color="0.35", linewidth=1)
    for y, (arm, (_, circuit)) in enumerate(ARMS.items()):
        mean, low, high = (100 * x for x in (found[arm].mean, found[arm].low, found[arm].high))
        color = BLUE if circuit else ORANGE
        axis.plot([low, high], [y, y], color=color, linewidth=2)
        axis.plot(mean, y, "o", color=color, markersize=7)
        axis.text(1.6, y, f"{mean:+.2f}", va="center", fontsize=9)
    axis.set_yticks(range(len(ARMS)), [name for name, _ in ARMS.values()], fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.set(xlim=(-0.35, 2.1), ylim=(len(ARMS) - 0.5, -0.6), xticks=(0, 0.5, 1, 1.5))
    axis.set_xlabel("points of accuracy over tuned AdamW")
    axis.spines[["top", "right", "left"]].set_visible(False)


def draw(found: dict[str, Paired]) -> Figure:
    """Draw the whole figure."""
    figure = Figure(figsize=(10.6, 3.2), layout=ConstrainedLayoutEngine(wspace=0.04))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 0.85, 1))
    draw_circuit(left)
    draw_answer(middle)
    draw_comparison(right, found)
    titles = (
        "1. Four weights are the angles",
        "2. Its answer s scales steps",
        "3. Does it help? (blue: circuits)",
    )
    for axis, title in zip((left, middle, right), titles, strict=True):
        axis.set_title(title, loc="left", fontsize=11, weight="bold")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "images", help="folder to write to. Default: docs/images"
    )
    options = parser.parse_args(arguments)
    save(draw(differences()), options.output / "overview.png")


if __name__ == "__main__":
    main()
