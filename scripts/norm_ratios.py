"""Measure the size of the perturbation relative to Adam's step in the main job, for scripts/plot_method.py."""

import itertools
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.experiment import Experiment, build
from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    Perturbation,
    SinePerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.superpositional import LEGAL_COMBINATIONS
from lightning_qsgd.quantum import AerSampler

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "seqcls.yaml"
SCOPES = ("first_of_tensor", "first_of_model", "all")
QUANTUM_WEIGHT = 0.5


def aer() -> AerSampler:
    """The main job's sampler."""
    return AerSampler(shots=1024, seed=0)


def aligned() -> CircuitPerturbation:
    """The main job's circuit."""
    return CircuitPerturbation(sampler=aer())


#: Kinds of perturbations, by their name in the page.
KINDS: dict[str, Callable[[], Perturbation]] = {
    "SinePerturbation": SinePerturbation,
    "CircuitPerturbation (aligned)": aligned,
    "... depth 1": lambda: CircuitPerturbation(depth=1, sampler=aer()),
    "... entanglement none": lambda: CircuitPerturbation(entanglement="none", sampler=aer()),
    "... rotations zero": lambda: CircuitPerturbation(rotations="zero", sampler=aer()),
    "... rotations zero, center zero": lambda: CircuitPerturbation(rotations="zero", center="zero", sampler=aer()),
    "... rotations zero, center odd": lambda: CircuitPerturbation(rotations="zero", center="odd", sampler=aer()),
    "... rotations random (seed 0)": lambda: CircuitPerturbation(rotations="random", sampler=aer()),
    "... rotations random, center odd": lambda: CircuitPerturbation(rotations="random", center="odd", sampler=aer()),
    "ControlPerturbation sign": lambda: ControlPerturbation("sign"),
    "... uniform": lambda: ControlPerturbation("uniform"),
    "... matched (to aligned)": lambda: ControlPerturbation("matched", aligned()),
    "... shuffled (aligned)": lambda: ControlPerturbation("shuffled", aligned()),
    "... frozen (aligned)": lambda: ControlPerturbation("frozen", aligned()),
    "... constant (aligned)": lambda: ControlPerturbation("constant", aligned()),
}


# ---- measuring


class Recorder(L.Callback):
    """Records the optimizer's statistics, and the distance of Adam's direction from that of plain gradients."""

    def __init__(self, target: str, scope: str) -> None:
        self.target, self.scope = target, scope
        self.steps: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        trainer.optimizers[0].record_statistics = True  # type: ignore[attr-defined]
        if self.target == "gradient":  # a twin whose moments see the same gradients without Q
            if not self.steps:
                self.twins = [torch.zeros_like(p) for p in pl_module.parameters()]
                self.adam = torch.optim.AdamW(self.twins, weight_decay=0.0)
            for twin, p in zip(self.twins, pl_module.parameters(), strict=True):
                assert p.grad is not None
                twin.grad = p.grad.clone()
            self.adam.step()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        optimizer: Any = trainer.optimizers[0]
        numbers = {name: float(value) for name, value in optimizer.statistics.items() if value.dim() == 0}
        if self.target == "gradient":
            plain = [direction(self.adam.state[twin]) for twin in self.twins]
            perturbed = [direction(optimizer.state[p]) for p in pl_module.parameters()]
            change = norm([a - b for a, b in zip(perturbed, plain, strict=True)])
            numbers["of_gradient"] = numbers["norm_ratio"]
            numbers["norm_ratio"] = change / norm(plain)
            numbers["norm_ratio_touched"] = change / norm(first_coordinates(plain, self.scope))
        self.steps.append(numbers)


def direction(state: dict[str, Tensor]) -> Tensor:
    """Adam's direction with betas (0.9, 0.999) and eps 1e-8, float64."""
    m, v, t = state["exp_avg"].double(), state["exp_avg_sq"].double(), float(state["step"])
    return (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def first_coordinates(tensors: Sequence[Tensor], scope: str, num_qubits: int = 4) -> list[Tensor]:
    """The coordinates that a scope touches."""
    if scope == "all":
        return list(tensors)
    return [t.flatten()[:num_qubits] for t in tensors[: 1 if scope == "first_of_model" else None]]


def norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(t.square().sum()) for t in tensors))


def main_job(seed: int, epochs: int, folder: str, overrides: Sequence[str] = ()) -> Experiment:
    """The main job without logs, checkpoints and validation."""
    return build(
        [CONFIG],
        [
            *(f"--seed_everything={seed}", f"--data.seed={seed}", f"--trainer.max_epochs={epochs}"),
            *(f"--trainer.default_root_dir={folder}", "--trainer.logger=false", "--trainer.accelerator=cpu"),
            *("--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"),
            *("--trainer.enable_model_summary=false", "--trainer.limit_val_batches=0", "--monitor.every_n_steps=0"),
            *overrides,
        ],
    )


class Measured(NamedTuple):
    """One row: settings, and for each statistic its mean over steps, by seed."""

    setting: dict[str, str]
    statistics: dict[str, list[float]]

    def text(self, name: str) -> str:
        """Mean over seeds, and their range."""
        values = self.statistics[name]
        return f"{np.mean(values):.2g} ({min(values):.2g} to {max(values):.2g})"


def measure(
    setting: dict[str, str],
    make: Callable[[], Perturbation],
    names: Sequence[str],
    seeds: Sequence[int],
    epochs: int,
    overrides: Sequence[str] = (),
) -> Measured:
    """Train the main job with ``setting`` and average the statistics ``names`` over the steps."""
    statistics: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        options: dict[str, Any] = {"lr": 1e-3, "quantum_weight": QUANTUM_WEIGHT, "perturbation": make(), **setting}
        recorder = Recorder(setting["target"], setting["scope"])
        with tempfile.TemporaryDirectory() as folder:
            trainer, module, data = main_job(seed, epochs, folder, overrides)
            module.optimizer = partial(SuperpositionalGradientDescent, **options)  # type: ignore[assignment]
            trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
            trainer.fit(module, datamodule=data)
        for name in names:
            mean = np.mean([step[name] for step in recorder.steps])
            statistics[name].append(float(f"{mean:.3g}"))
    return Measured(setting, statistics)


def combinations(seeds: Sequence[int], epochs: int, overrides: Sequence[str] = ()) -> list[Measured]:
    """The literal paper, and all valid (target, scale, coupling) with the main job's circuit, for each scope."""
    rows = []
    blocks = [("zero", LEGAL_COMBINATIONS[0]), *(("aligned", combination) for combination in LEGAL_COMBINATIONS)]
    for (rotations, (target, scale, coupling)), scope in itertools.product(blocks, SCOPES):
        setting = {"target": target, "scale": scale, "coupling": coupling, "scope": scope}
        names = ["norm_ratio", "norm_ratio_touched"] + ["of_gradient"] * (target == "gradient")
        make = KINDS["... rotations zero"] if rotations == "zero" else aligned
        row = measure(setting, make, names, seeds, epochs, overrides)
        rows.append(Measured(setting | {"rotations": rotations}, row.statistics))
        print(rows[-1].setting, {name: row.text(name) for name in names}, flush=True)
    return rows


def kinds(seeds: Sequence[int], epochs: int, overrides: Sequence[str] = ()) -> list[Measured]:
    """All kinds of perturbations, with scale="adam" on all coordinates."""
    setting = {"target": "update", "scale": "adam", "coupling": "lr", "scope": "all"}
    rows = []
    for name, make in KINDS.items():
        row = measure(setting, make, ["norm_ratio", "offset", "spread"], seeds, epochs, overrides)
        rows.append(Measured({"perturbation": name, "scale": "adam", "scope": "all"}, row.statistics))
        print(name, {key: row.text(key) for key in row.statistics}, flush=True)
    return rows


def table_of_combinations(rows: Sequence[Measured]) -> str:
    """Markdown."""
    lines = [
        "| rotations | target, scale, coupling | scope | ratio, whole model | ratio, touched coordinates |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        combination = ", ".join(row.setting[name] for name in ("target", "scale", "coupling"))
        ratios = f"{row.text('norm_ratio')} | {row.text('norm_ratio_touched')}"
        lines.append(f"| {row.setting['rotations']} | {combination} | `{row.setting['scope']}` | {ratios} |")
    return "\n".join(lines)


def table_of_kinds(rows: Sequence[Measured]) -> str:
    """Markdown."""
    lines = ["| perturbation | offset of s | spread of s | ratio | lr factor |", "|---|---|---|---|---|"]
    for row in rows:
        offset, spread = (float(np.mean(row.statistics[name])) for name in ("offset", "spread"))
        numbers = f"{offset:+.3f} | {spread:.3f} | {row.text('norm_ratio')} | {1 + QUANTUM_WEIGHT * offset:.2f}"
        lines.append(f"| {row.setting['perturbation']} | {numbers} |")
    return "\n".join(lines)


def read(path: Path) -> tuple[list[Measured], list[Measured]]:
    """The rows of docs/results/norm_ratios.json: combinations, kinds."""
    numbers = json.loads(path.read_text())
    return [Measured(**row) for row in numbers["combinations"]], [Measured(**row) for row in numbers["kinds"]]
