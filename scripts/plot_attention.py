"""Draw the figure of docs/quantum_attention.md from docs/results/quantum_attention.json and a few circuits.

python scripts/plot_attention.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from attention_study import ARMS, RESULTS, Runs, difference
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_qsgd.quantum import FakeBackendSampler, ScoreSeries
from lightning_qsgd.quantum.fourier import basis, nodes

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "quantum_attention.png"
COLOURS = {"classical": "#444444", "quantum": "#1f6fb4", "trained series": "#d97706"}


def draw_series(axes: Axes) -> None:
    """Draw a circuit with random angles, exactly and from 17 circuits on a fake device."""
    torch.manual_seed(0)
    exact = ScoreSeries(1)
    device = ScoreSeries(1, sampler=FakeBackendSampler("FakeManilaV2", shots=1024))
    device.load_state_dict(exact.state_dict())
    scores = torch.linspace(-np.pi, np.pi, 400)
    asked = torch.remainder(nodes(exact.nodes).float() + torch.pi, 2 * torch.pi) - torch.pi
    with torch.no_grad():
        for series, label, colour in ((exact, "exact", "#444444"), (device, "FakeManilaV2", "#1f6fb4")):
            coefficients = series()[0]
            axes.plot(scores, basis(scores, len(coefficients)) @ coefficients, color=colour, label=label)
        measured = basis(asked, len(coefficients)) @ coefficients
    axes.plot(asked, measured, "o", markersize=4, color=colour, label="its 17 circuits, 1024 shots each")
    axes.set(title="One head: 17 circuits give all scores", xlabel="score, radians", ylabel="Phi, P(outcome 1 to 4)")
    axes.legend(fontsize=8)


def draw_curves(axes: Axes, runs: dict[str, Runs]) -> None:
    """Draw mean and standard deviation over seeds of the validation accuracy."""
    for arm, colour in COLOURS.items():
        accuracy = 100 * np.array([run["accuracy"] for run in runs[arm].values()])
        mean, spread = accuracy.mean(0), accuracy.std(0, ddof=1)
        epochs = np.arange(1, len(mean) + 1)
        axes.plot(epochs, mean, color=colour, label=arm)
        axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set(title="Order task, mean and deviation of seeds", xlabel="epoch", ylabel="validation accuracy, %")
    axes.legend(fontsize=8, loc="lower right")


def draw_differences(axes: Axes, runs: dict[str, Runs]) -> None:
    """Draw paired differences from classical attention."""
    arms = [arm for arm in ARMS if arm != "classical" and len(runs.get(arm, {})) > 1]
    for place, arm in enumerate(reversed(arms)):
        mean, low, high = difference(runs[arm], runs["classical"])
        axes.plot([low, high], [place, place], color=COLOURS.get(arm, "#888888"), linewidth=2)
        axes.plot(mean, place, "o", color=COLOURS.get(arm, "#888888"))
    axes.axvline(0, color="#444444", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(arms)), reversed(arms))
    axes.set(title="Minus classical attention, 95 % interval", xlabel="points, mean of the last 3 epochs")


def main() -> None:
    runs: dict[str, Runs] = json.loads(RESULTS.read_text())["runs"]
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_series(left)
    draw_curves(middle, runs)
    draw_differences(right, runs)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
