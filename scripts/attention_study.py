"""Compare quantum attention with classical attention and controls, over paired seeds.

All arms train configs/seqcls_quantum_attention.yaml with the same seeds. They have the same dropout, batches and data,
and the same initial values of shared parameters. Results are written to docs/results/quantum_attention.json. You can
stop the script at any time; finished runs are kept. `report` prints the table of the docs.

    python scripts/attention_study.py run
    python scripts/attention_study.py report
"""

import argparse
import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscapes_report import paired

from lightning_qsgd.callbacks import TimeToTarget
from lightning_qsgd.experiment import Experiment, build
from lightning_qsgd.files import atomic_write
from lightning_qsgd.models import QuantumAttention

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "seqcls_quantum_attention.yaml"
RESULTS = ROOT / "docs" / "results" / "quantum_attention.json"
SEEDS = range(1, 11)
OPTION = "--model.attention."
#: Arms by their name in the docs, in the order in which they run.
ARMS = {
    "classical": ["--model.attention=classical"],
    "quantum": [],
    "trained series": [f"{OPTION}phi=series"],
    "fixed random series": [f"{OPTION}phi=random"],
    "frozen angles": [f"{OPTION}angles=frozen"],
    "no entanglement": [f"{OPTION}entanglement=none"],
    "readout expectation": [f"{OPTION}readout=expectation"],
}
PACKAGES = ("torch", "lightning", "qiskit")


def train(arm: str, seed: int, epochs: int | None) -> dict[str, Any]:
    """Train one run: validation accuracy after each epoch, seconds of training, and statistics of Phi."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--seed_everything={seed}", f"--data.seed={seed}", f"--trainer.default_root_dir={folder}"]
        quiet = [
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--trainer.logger=false",
        ]
        overrides = [*options, *quiet, "--trainer.enable_checkpointing=false", *ARMS[arm]]
        overrides += [] if epochs is None else [f"--trainer.max_epochs={epochs}"]
        experiment = build([CONFIG], overrides)
        experiment.trainer.fit(experiment.module, experiment.data)
        (clock,) = (c for c in experiment.trainer.callbacks if isinstance(c, TimeToTarget))  # type: ignore[attr-defined]
        run = {"accuracy": clock.history, "seconds": clock.elapsed, "epochs to target": clock.epochs}
        return run | after_training(experiment)


def after_training(experiment: Experiment) -> dict[str, Any]:
    """The accuracy of the trained model without Phi, and statistics of its quantum layers."""
    layers = [m for m in experiment.module.modules() if isinstance(m, QuantumAttention)]
    if not layers:
        return {}
    batch = next(iter(experiment.data.val_dataloader()))
    module = experiment.module.eval()
    for layer in layers:
        layer.watch = True
    with torch.no_grad():
        module(batch)
    statistics = [{k: v.tolist() for k, v in (layer.statistics or {}).items()} for layer in layers]
    gains = [layer.gain.tolist() for layer in layers]
    scales = [layer.scale.tolist() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.gain.zero_()
    (metrics,) = experiment.trainer.validate(module, experiment.data, verbose=False)
    return {
        "accuracy without phi": metrics["val/accuracy"],
        "gain": gains,
        "scale": scales,
        "statistics": statistics,
    }


def run(arms: list[str], seeds: list[int], epochs: int | None, path: Path) -> None:
    """Train missing runs, and write the file after each run."""
    results = json.loads(path.read_text()) if path.is_file() else {"runs": {}}
    results["versions"] = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
    for arm in arms:
        for seed in seeds:
            runs = results["runs"].setdefault(arm, {})
            if str(seed) in runs:
                continue
            start = time.perf_counter()
            runs[str(seed)] = train(arm, seed, epochs)
            with atomic_write(path) as file:
                json.dump(results, file)
            last = np.mean(runs[str(seed)]["accuracy"][-3:])
            print(f"{arm}, seed {seed}: {last:.4f} after {time.perf_counter() - start:.0f} s", flush=True)


Runs = dict[str, dict[str, Any]]  # by seed


def primary(run: dict[str, Any]) -> float:
    """The mean validation accuracy of the last 3 epochs, in percent."""
    return 100 * float(np.mean(run["accuracy"][-3:]))


def difference(one: Runs, other: Runs) -> tuple[float, float, float]:
    """The mean paired difference of the primary metric over common seeds, with its 95 % t-interval."""
    seeds = sorted(one.keys() & other.keys(), key=int)
    return paired(*([primary(runs[seed]) for seed in seeds] for runs in (one, other)))


def without_phi(runs: Runs) -> str:
    """The accuracy after the last epoch without Phi, minus that with Phi."""
    values = [100 * (run["accuracy without phi"] - run["accuracy"][-1]) for run in runs.values()]
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*paired(values, [0.0] * len(values)))


def accuracies(arm: str, runs: dict[str, Runs]) -> list[str]:
    """Cells of the first table."""
    own = runs[arm]
    values = np.array([primary(run) for run in own.values()])
    bases = ("classical", "quantum")
    paired = ["" if arm == b else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*difference(own, runs[b])) for b in bases]
    epochs = [run["epochs to target"] or np.inf for run in own.values()]
    hits = f"{np.median(epochs):g} ({np.isfinite(epochs).sum()} of {len(epochs)})"
    spread = f"{values.mean():.2f} +- {values.std(ddof=1):.2f} %"
    return [arm, str(len(values)), spread, *paired, hits, "" if arm == "classical" else without_phi(own)]


def trained_phi(arm: str, runs: Runs) -> list[str]:
    """Cells of the second table: means over seeds, layers and heads, and their range."""
    found = [[run[name] for run in runs.values()] for name in ("gain", "scale")]
    found += [
        [[layer[name] for layer in run["statistics"]] for run in runs.values()]
        for name in ("score_spread", "phi_spread", "moved")
    ]
    return [arm, *(f"{np.mean(v):.2f} ({np.min(v):.2f} to {np.max(v):.2f})" for v in found)]


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [" | ".join(titles), "|".join(["---"] * len(titles)), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def report(path: Path) -> str:
    """Print accuracies with paired differences, and statistics of Phi after training."""
    runs: dict[str, Runs] = json.loads(path.read_text())["runs"]
    arms = [arm for arm in ARMS if len(runs.get(arm, {})) > 1]
    first = ["arm", "seeds", "mean of last 3 epochs", "minus classical", "minus quantum", "epochs to 90 %"]
    first.append("Phi left out")
    second = ["arm", "gain", "scale", "spread of the scores", "spread of gain * Phi", "moved"]
    return "\n\n".join(
        [
            markdown(first, [accuracies(arm, runs) for arm in arms]),
            markdown(second, [trained_phi(arm, runs[arm]) for arm in arms if arm != "classical"]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, help="number of epochs. Default: the configuration's")
    parser.add_argument("--file", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "run":
        run(arguments.arms, arguments.seeds, arguments.epochs, arguments.file)
    print(report(arguments.file))


if __name__ == "__main__":
    main()
