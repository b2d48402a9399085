"""Make the figures and numbers of docs/method.md: `python scripts/plot_method.py` (about 5 minutes on one core).

It writes docs/images/method_*.png and docs/results/norm_ratios.json, and prints the tables of the page. All results
depend only on the seeds. With --draw-only, the numbers stay, and only the figures are drawn again.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from norm_ratios import (
    QUANTUM_WEIGHT,
    ROOT,
    SCOPES,
    Measured,
    combinations,
    kinds,
    main_job,
    read,
    table_of_combinations,
    table_of_kinds,
)
from PIL import Image
from torch import Tensor

from lightning_qsgd.files import atomic_write
from lightning_qsgd.optim import CircuitPerturbation

OTHERS = 0.07  # standard deviation of a block's other weights: about that of the main job's matrices at the start
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "0.55"  # of Okabe and Ito's palette


def answers(perturbation: CircuitPerturbation, theta: Tensor) -> Tensor:
    """s of weights, in the shape of ``theta`` (..., n)."""
    blocks = theta.reshape(-1, perturbation.num_qubits)
    perturbation.layout = [(0, blocks.numel(), 0)]
    return perturbation(math.pi * blocks, step=0).view(theta.shape)


def draw_responses(draws: int = 400, qubit: int = 1) -> Figure:
    """s of the second qubit against its weight; the block's other weights are 0, or normal."""
    panels = (
        ("depth 1, no chain (or decoded):\nthe sine of Eq. 2", CircuitPerturbation(depth=1)),
        ("depth 1, chain not decoded", CircuitPerturbation(depth=1, rotations="zero")),
        ("depth 2, aligned (default)", CircuitPerturbation()),
        ("depth 2, zero rotations:\nthe paper's letter", CircuitPerturbation(rotations="zero")),
        ("depth 2, random rotations", CircuitPerturbation(rotations="random")),
        ("depth 2, random rotations,\ncenter odd", CircuitPerturbation(rotations="random", center="odd")),
    )
    generator = torch.Generator().manual_seed(0)
    theta = torch.linspace(-1, 1, 201, dtype=torch.float64)
    others = OTHERS * torch.randn(draws, 1, 4, dtype=torch.float64, generator=generator).repeat(1, len(theta), 1)
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for i, (axis, (title, perturbation)) in enumerate(zip(axes.flat, panels, strict=True)):
        alone = torch.zeros(len(theta), 4, dtype=torch.float64)
        alone[:, qubit] = others[:, :, qubit] = theta
        low, high = np.quantile(answers(perturbation, others)[..., qubit].numpy(), (0.05, 0.95), axis=0)
        axis.axvspan(-2 * OTHERS, 2 * OTHERS, color="0.92")
        axis.axhline(0, color="0.8", linewidth=0.8)
        axis.plot(theta, torch.sin(math.pi * theta), color="black", linewidth=1, linestyle=":", label="sin(pi theta)")
        axis.fill_between(theta, low, high, color=ORANGE, alpha=0.5, label="5 to 95 % of draws of the others")
        axis.plot(theta, answers(perturbation, alone)[:, qubit], color=BLUE, linewidth=2, label="others 0")
        axis.set_title(f"({'abcdef'[i]}) {title}", fontsize=10, loc="left")
        axis.set(xlim=(-1, 1), ylim=(-1.08, 1.08))
    for axis in axes[1]:
        axis.set_xlabel("weight theta of qubit 1")
    for axis in axes[:, 0]:
        axis.set_ylabel("s of qubit 1")
    axes[0, 0].text(0.97, -1.0, "grey: 2 standard\ndeviations around 0", fontsize=8, ha="right", va="bottom")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def weights_of_main_job(epochs: int) -> dict[str, Tensor]:
    """All weights of the main job's model, flat, in its parameters' order: at the start and after training."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer, module, data = main_job(0, epochs, folder)
        module.on_fit_start = lambda: found.update(initial=torch.nn.utils.parameters_to_vector(module.parameters()))
        trainer.fit(module, datamodule=data)
    found["trained"] = torch.nn.utils.parameters_to_vector(module.parameters())
    return {name: weights.detach().double().clone() for name, weights in found.items()}


def draw_distributions(weights: dict[str, Tensor]) -> Figure:
    """Histograms of s over all weights (a multiple of 4 in each tensor) of a model."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    edges = np.linspace(-1, 1, 81)
    for axis, rotations in zip(axes, ("aligned", "zero"), strict=True):
        perturbation = CircuitPerturbation(rotations=rotations)
        lines = []
        for name, theta in weights.items():
            s = answers(perturbation, theta.view(-1, 4)).flatten().numpy()
            share = np.full(len(s), 1 / len(s))
            if name == "initial":
                axis.hist(s, edges, weights=share, color=ORANGE, alpha=0.6, label="at the start")
            else:
                axis.hist(s, edges, weights=share, histtype="step", color=BLUE, linewidth=1.6, label="trained")
            lines.append(
                f"{'at the start' if name == 'initial' else 'trained'}: mean {s.mean():+.2f}, spread {s.std():.2f}, "
                f"lr factor {1 + QUANTUM_WEIGHT * s.mean():.2f}"
            )
        print(f"s over all weights, {rotations} rotations: {'; '.join(lines)}")
        axis.set_title(f"{rotations} rotations\n" + "\n".join(lines), fontsize=10, loc="left")
        axis.set(xlabel="s", xlim=(-1, 1), xticks=np.linspace(-1, 1, 5), yscale="log")
    axes[0].set_ylabel("share of the weights per bin of 0.025")
    axes[0].legend(loc="upper right", frameon=False)
    return figure


def draw_ratios(rows: Sequence[Measured]) -> Figure:
    """Ratios of each combination and scope, on a logarithmic axis."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axis = figure.subplots()
    styles = (  # statistic, marker, its size, its colour, the edge's, meaning
        ("norm_ratio", "o", 10, BLUE, BLUE, "whole model"),
        ("norm_ratio_touched", "D", 5, "white", "black", "touched coordinates only"),
    )
    ticks, names = [], []
    for i, row in enumerate(rows):
        y = -(i + 0.9 * (i // len(SCOPES)))
        ticks.append(y)
        names.append(row.setting["scope"])
        means = [float(np.mean(row.statistics[name])) for name, *_ in styles]
        axis.plot(means, [y, y], color="0.75", linewidth=1, zorder=1)
        for (name, marker, size, face, edge, text), mean in zip(styles, means, strict=True):
            axis.hlines(y, min(row.statistics[name]), max(row.statistics[name]), color=edge, linewidth=2)
            label = text if i == 0 else None
            axis.plot(mean, y, marker, markersize=size, markerfacecolor=face, markeredgecolor=edge, label=label)
        if i % len(SCOPES) == 0:
            named = ", ".join(f"{name} {row.setting[name]}" for name in ("target", "scale", "coupling"))
            named += f"; {row.setting['rotations']} rotations" + " (the paper's letter)" * (i == 0)
            axis.text(0.01, y + 0.55, named, transform=axis.get_yaxis_transform(), fontsize=10, weight="bold")
    axis.axvline(1, color="black", linewidth=1, linestyle="--")
    axis.text(1, ticks[0] + 1.1, "as large as\nAdam's step", ha="center", va="bottom", fontsize=8)
    axis.set_xscale("log")
    axis.set_yticks(ticks, names)
    axis.set_ylim(ticks[-1] - 0.7, ticks[0] + 1.05)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.set_xlabel(
        f"norm of the change over the norm of Adam's step, lambda = {QUANTUM_WEIGHT} (bars: range over seeds)"
    )
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    with atomic_write(path, "wb") as file:
        buffer = BytesIO()
        figure.savefig(buffer, dpi=130)
        Image.open(buffer).convert("RGB").quantize(64).save(file, "png", optimize=True)  # a third of the size
    print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of the ratios. Default: 1 2 3")
    parser.add_argument(
        "--epochs", type=int, default=2, help="epochs of the ratios, which are means over steps. Default: 2"
    )
    parser.add_argument(
        "--train-epochs", type=int, default=12, help="epochs of the trained model. Default: 12, as in the main job"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder to write to. Default: docs")
    parser.add_argument("--draw-only", action="store_true", help="read the ratios instead of measuring them")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    numbers, images = options.output / "results" / "norm_ratios.json", options.output / "images"
    if not options.draw_only:
        measured = {
            "command": "python scripts/plot_method.py",
            "versions": {name: version(name) for name in ("torch", "lightning", "qiskit", "qiskit-aer")},
            "config": "configs/seqcls.yaml",
            "quantum_weight": QUANTUM_WEIGHT,
            "seeds": options.seeds,
            "epochs": options.epochs,
            "combinations": [row._asdict() for row in combinations(options.seeds, options.epochs)],
            "kinds": [row._asdict() for row in kinds(options.seeds, options.epochs)],
        }
        with atomic_write(numbers) as file:
            file.write(json.dumps(measured, indent=1) + "\n")
    rows, kind_rows = read(numbers)
    print(f"\n{table_of_combinations(rows)}\n\n{table_of_kinds(kind_rows)}\n")
    save(draw_responses(), images / "method_responses.png")
    save(draw_distributions(weights_of_main_job(options.train_epochs)), images / "method_distribution.png")
    save(draw_ratios(rows), images / "method_ratios.png")


if __name__ == "__main__":
    main()
