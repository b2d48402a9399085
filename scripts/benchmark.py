"""Measure speed as ratios, side by side in one run: `make bench`.

Each round runs one training step of every arm, in rotating order, on the same batch. A ratio is the median over rounds
of arm / baseline within the round, with a 95 % bootstrap interval of that median (scipy.stats.bootstrap).
"""

import argparse
import copy
import itertools
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from types import UnionType
from typing import Any, ClassVar, Literal

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap
from torch.nn import functional as F

from lightning_qsgd.audit.recording import TIMES, Recorder
from lightning_qsgd.callbacks import ExactResume, FiniteSteps, PerturbationMonitor, RunMonitor
from lightning_qsgd.datamodules import SyntheticSequences
from lightning_qsgd.experiment import build
from lightning_qsgd.models import TransformerClassifier
from lightning_qsgd.optim import (
    CircuitPerturbation,
    LiveCircuitPerturbation,
    MeasuredDisplacement,
    SinePerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.quantum import AerSampler

Step = Callable[[dict[str, torch.Tensor]], None]


@dataclass
class Ratio:
    """Median ratio of an arm to the baseline, and its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(arm: NDArray[np.float64], baseline: NDArray[np.float64]) -> Ratio:
    quotients = arm / baseline
    interval = bootstrap((quotients,), np.median, method="percentile", rng=0, n_resamples=2000).confidence_interval
    return Ratio(float(np.median(quotients)), float(interval.low), float(interval.high))


def interleave(steps: dict[str, Step], rounds: int, warmup: int = 20) -> dict[str, NDArray[np.float64]]:
    """Measure the seconds of each step in each round."""
    batches = itertools.cycle(SyntheticSequences().train_dataloader())
    names = list(steps)
    seconds = {name: np.zeros(rounds) for name in names}
    for i in range(-warmup, rounds):
        batch = next(batches)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            steps[name](batch)
            if i >= 0:
                seconds[name][i] = time.perf_counter() - start
    return seconds


def training_step(make_optimizer: Callable[[list[torch.Tensor]], torch.optim.Optimizer]) -> Step:
    """A whole training step of the model of configs/seqcls.yaml: forward, backward and optimizer."""
    L.seed_everything(0, verbose=False)
    model = TransformerClassifier(vocab_size=64, num_classes=4, max_length=32)
    optimizer = make_optimizer(list(model.parameters()))
    ours = optimizer if isinstance(optimizer, SuperpositionalGradientDescent) else None

    def step(batch: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad()
        with ours.displaced() if ours is not None and ours.displacement is not None else nullcontext():
            F.cross_entropy(model(batch["tokens"]), batch["labels"]).backward()
        optimizer.step()

    return step


def monitor_share(live: bool, epochs: int) -> Ratio:
    """The time that monitors add to every 50th step, as a share of 50 plain steps in Lightning's loop."""
    files = ["configs/seqcls.yaml"] + ["configs/overlay/live.yaml"] * live
    _, steps = spent_in(PerturbationMonitor | RunMonitor, files, epochs)
    plain = np.median(steps)
    recorded = steps[50::50]  # without the first one, which includes one-time work
    return ratio(recorded - plain, np.full(len(recorded), 50 * plain))


def audit_ratio(runs: int, steps: int = 600) -> Ratio:
    """The time of a whole run that an audit records, over that of the run alone, with all coordinates perturbed."""
    circuit = CircuitPerturbation()
    circuit.prepare()
    seconds = np.zeros((2, runs))
    for run in range(runs):
        recorder = Recorder()
        arms = []
        for listen in (False, True):
            L.seed_everything(run, verbose=False)
            model = TransformerClassifier(vocab_size=64, num_classes=4, max_length=32)
            own = copy.copy(circuit)
            options: dict[str, Any] = {"perturbation": own, "scope": "all", "scale": "adam"}
            arms.append((model, SuperpositionalGradientDescent(model.parameters(), **options)))
            if listen:
                recorder.listen(arms[-1][1], model)
        batches = itertools.cycle(SyntheticSequences().train_dataloader())
        for i in range(steps):
            batch = next(batches)
            for arm in (i % 2, 1 - i % 2):
                model, optimizer = arms[arm]
                start = time.perf_counter()
                optimizer.zero_grad()
                F.cross_entropy(model(batch["tokens"]), batch["labels"]).backward()
                optimizer.record_statistics = arm == 1 and i % (steps // TIMES) == 0
                optimizer.step()
                seconds[arm, run] += time.perf_counter() - start
        recorder.close()
    return ratio(seconds[1], seconds[0])


def callback_shares(epochs: int) -> dict[str, Ratio]:
    """The share of a step that the callbacks which guard it take, without loggers and checkpoints."""
    spent, steps = spent_in(ExactResume | FiniteSteps, ["configs/seqcls.yaml"], epochs, "logger=false")
    whole = np.full(len(steps), np.median(steps))
    return {name: ratio(seconds, whole) for name, seconds in spent.items()}


def spent_in(
    callbacks: UnionType, files: list[str], epochs: int, *options: str
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """The seconds of each step in Lightning's loop that callbacks take, by class, and those of whole steps."""
    hooks = (
        "on_train_batch_start",
        "on_before_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
        "_on_fetch",
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = ["enable_progress_bar=false", "enable_model_summary=false", "limit_val_batches=0", *options]
        settings += ["accelerator=cpu", f"max_epochs={epochs}", f"default_root_dir={folder}"]
        run = build(files, [f"--trainer.{setting}" for setting in settings])
        watched = {type(c).__name__: c for c in run.trainer.callbacks if isinstance(c, callbacks)}  # type: ignore[attr-defined]
        spent = {name: [0.0] for name in watched}  # of each step

        def timed(name: str, hook: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: Any) -> None:
                start = time.perf_counter()
                hook(*arguments)
                spent[name][-1] += time.perf_counter() - start

            return call

        class Clock(L.Callback):
            ends: ClassVar[list[float]] = []

            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                self.ends.append(time.perf_counter())
                for seconds in spent.values():
                    seconds.append(0.0)

        for name, callback in watched.items():
            for hook in hooks:
                if hasattr(callback, hook):
                    setattr(callback, hook, timed(name, getattr(callback, hook)))
        run.trainer.callbacks.insert(0, Clock())  # type: ignore[attr-defined]
        run.trainer.fit(run.module, datamodule=run.data)
    return {name: np.array(seconds[1:-1]) for name, seconds in spent.items()}, np.diff(Clock.ends)


def lightning_ratio(epochs: int) -> Ratio:
    """A training step of configs/table.yaml, in Lightning with all callbacks, over a step of a bare PyTorch loop.

    Both load batches of the same data, and train models with the same circuit. The bare loop's step runs after each
    step of Lightning.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = ["enable_progress_bar=false", "enable_model_summary=false", "limit_val_batches=0"]
        settings += ["accelerator=cpu", f"max_epochs={epochs}", f"default_root_dir={folder}"]
        run = build("configs/table.yaml", [f"--trainer.{setting}" for setting in settings])

        class Bare(L.Callback):
            lightning: ClassVar[list[float]] = []
            bare: ClassVar[list[float]] = []
            since = 0.0

            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                self.model = copy.deepcopy(pl_module.model)
                self.optimizer = pl_module.optimizer(self.model.parameters())
                self.batches = itertools.chain.from_iterable(itertools.repeat(trainer.datamodule.train_dataloader()))

            def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
                self.since = time.perf_counter()

            def on_train_batch_end(
                self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
            ) -> None:
                start = time.perf_counter()
                rows = next(self.batches)
                self.optimizer.zero_grad()
                F.cross_entropy(self.model(rows["inputs"]), rows["labels"]).backward()
                self.optimizer.step()
                end = time.perf_counter()
                self.lightning.append(start - self.since)
                self.bare.append(end - start)
                self.since = time.perf_counter()

        run.trainer.callbacks.append(Bare())  # type: ignore[attr-defined]
        run.trainer.fit(run.module, datamodule=run.data)
    return ratio(np.array(Bare.lightning[20:]), np.array(Bare.bare[20:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=1000, help="number of rounds (for live circuits a fifth of it). Default: 1000"
    )
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)

    def adamw(params: list[torch.Tensor]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=1e-3, weight_decay=0.0)

    def superpositional(perturbation: SinePerturbation | CircuitPerturbation) -> Step:
        perturbation.prepare()
        return training_step(lambda params: SuperpositionalGradientDescent(params, perturbation=perturbation))

    arms = {
        "AdamW": training_step(adamw),
        "AdamW again": training_step(adamw),
        "sine": superpositional(SinePerturbation()),
        "circuit, surrogate (default)": superpositional(CircuitPerturbation(sampler=AerSampler())),
    }
    live = {
        "AdamW": arms["AdamW"],
        "circuit, live": superpositional(LiveCircuitPerturbation(sampler=AerSampler())),
    }

    def displaced(source: Literal["circuit", "sign", "gaussian"]) -> Step:
        displacement = MeasuredDisplacement(0.05, source=source)
        options: dict[str, Any] = {"quantum_weight": 0.0, "displacement": displacement}
        return training_step(lambda params: SuperpositionalGradientDescent(params, **options))

    displacements = {"AdamW": arms["AdamW"]}
    for source in ("sign", "gaussian", "circuit"):
        displacements[f"displaced, {source}"] = displaced(source)
    table = Table(title="Whole training step against torch.optim.AdamW's, one thread", title_justify="left")
    for column in ("optimizer", "median ms", "ratio [95 %]", "goal"):
        table.add_column(column)
    goals = {"AdamW again": "1 (noise)", "circuit, surrogate (default)": "<= 1.03", "circuit, live": "3 to 4 expected"}
    goals |= dict.fromkeys(displacements, "<= 1.10")
    for group, count in ((arms, rounds), (displacements, rounds // 2), (live, max(rounds // 5, 20))):
        seconds = interleave(group, count)
        for name, values in seconds.items():
            text = "1" if name == "AdamW" else str(ratio(values, seconds["AdamW"]))
            table.add_row(name, f"{np.median(values) * 1e3:.2f}", text, "" if name == "AdamW" else goals.get(name, ""))
        table.add_section()
    console = Console(width=100)
    console.print(table)
    for name, share in {"series": monitor_share(False, 20), "live circuits": monitor_share(True, 10)}.items():
        text = f"{share.median:.2%} [{share.low:.2%}, {share.high:.2%}]"
        console.print(f"Monitors, every 50 steps, {name}: {text} of the steps' time (goal: at most 2 %)")
    console.print(f"Recording for an audit: {audit_ratio(max(rounds // 100, 3))} of a run's time (goal: at most 1.02)")
    for name, share in callback_shares(8).items():
        text = f"{share.median:.2%} [{share.low:.2%}, {share.high:.2%}]"
        console.print(f"{name}: {text} of a step in Lightning (goal: at most 2 %)")
    share = lightning_ratio(max(rounds // 20, 5))
    console.print(f"configs/table.yaml in Lightning: {share} of a bare loop's step (goal: at most 1.5)")
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "qiskit", "qiskit-aer", "qiskit-machine-learning"))
    console.print(f"{rounds} rounds; {packages}; Python {platform.python_version()}; {platform.machine()}")


if __name__ == "__main__":
    main()
