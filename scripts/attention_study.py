"""Quantum attention against classical attention and its controls, over paired seeds.

Each arm trains configs/seqcls_quantum_attention.yaml with the same seeds: initial weights of all that the arms share,
dropout, batches and data. The results go to docs/results/quantum_attention.json; finished runs are kept: start it again
at any time. `report` prints the table of the docs.

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
from scipy import stats

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
    """One run: validation accuracy after each epoch, seconds of training, and what became of Phi."""
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
    """Accuracy with Phi left out of the trained model, and statistics of its quantum layers."""
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
    """Train what is missing; the file is complete after each run."""
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


def primary(run: dict[str, Any]) -> float:
    """Mean validation accuracy of the last 3 epochs, in per cent."""
    return 100 * float(np.mean(run["accuracy"][-3:]))


def report(path: Path) -> str:
    """Markdown: each arm, and its paired difference from classical attention with a 95 % t interval."""
    runs = json.loads(path.read_text())["runs"]
    lines = [
        "| arm | seeds | mean of last 3 epochs | minus classical | minus quantum | epochs to 90 % | Phi left out |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in (arm for arm in ARMS if arm in runs):
        values = np.array([primary(run) for run in runs[arm].values()])
        cells = [arm, str(len(values)), f"{values.mean():.2f} +- {values.std(ddof=1):.2f} %"]
        for base in ("classical", "quantum"):
            seeds = sorted(runs[arm].keys() & runs[base].keys(), key=int)
            differences = np.array([primary(runs[arm][s]) - primary(runs[base][s]) for s in seeds])
            if arm == base or len(seeds) < 2:
                cells.append("")
                continue
            low, high = stats.t.interval(0.95, len(seeds) - 1, differences.mean(), stats.sem(differences))
            cells.append(f"{differences.mean():+.2f} [{low:+.2f}, {high:+.2f}]")
        epochs = [run["epochs to target"] for run in runs[arm].values()]
        hits = [epoch for epoch in epochs if epoch is not None]
        median = np.median([np.inf if epoch is None else epoch for epoch in epochs])
        cells.append(f"{median:g} ({len(hits)} of {len(epochs)})")
        without = [100 * run["accuracy without phi"] for run in runs[arm].values() if "accuracy without phi" in run]
        cells.append(f"{np.mean(without):.1f} %" if without else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, help="fewer epochs, for a trial. Default: the configuration's")
    parser.add_argument("--file", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "run":
        run(arguments.arms, arguments.seeds, arguments.epochs, arguments.file)
    print(report(arguments.file))


if __name__ == "__main__":
    main()
