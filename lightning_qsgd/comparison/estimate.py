"""What a comparison would cost, measured on the first steps of each arm."""

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from lightning_qsgd.callbacks.parts import superpositional
from lightning_qsgd.callbacks.run_summary import count_circuits
from lightning_qsgd.comparison.recorder import RunRecorder
from lightning_qsgd.comparison.runner import Runner
from lightning_qsgd.comparison.worker import prepared, quiet
from lightning_qsgd.yaml_files import dump_yaml

STEPS = 8  # optimizer steps that are measured


class Estimate(NamedTuple):
    """Of one run: seconds on one core, circuits and shots."""

    seconds: float
    circuits: int
    shots: int


def estimate(runner: Runner) -> dict[str, Estimate]:
    """Train the first steps of each arm, and scale up; a twin's time is taken as its arm's.

    Args:
        runner: of the comparison; nothing of it is run or written.

    Returns:
        An estimate for each arm and twin.
    """
    found: dict[str, Estimate] = {}
    for name in runner.comparison.all_arms():
        arm = name.partition("/")[0]
        if arm not in found:
            seed = runner.comparison.seeds.evaluation[0]
            found[arm] = _measure(runner.arms.plan(arm, seed, "evaluation", {}).config)
        found[name] = found[arm]
    return found


class _FirstSteps(RunRecorder):
    """Stops after a few steps, and keeps what they cost."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.circuits: list[tuple[int, int]] = []
        self.whole_steps, self.evaluations = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.whole_steps = int(trainer.estimated_stepping_batches)
        epochs = trainer.max_epochs or -1
        self.evaluations = epochs if epochs > 0 else self.whole_steps / max(trainer.num_training_batches, 1)
        self.evaluations /= trainer.check_val_every_n_epoch or 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before = self.steps
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.steps > before:
            self.times.append(time.perf_counter())
            ours = superpositional(trainer.optimizers)
            self.circuits.append(count_circuits(pl_module, ours)[:2])
        trainer.should_stop = self.steps >= STEPS


def _measure(config: dict[str, Any]) -> Estimate:
    probe, began = _FirstSteps(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), quiet():
        (path := Path(folder) / "run.yaml").write_text(dump_yaml(config))
        prepared(path, Path(folder) / "run", (probe,)).fit()
    whole = time.perf_counter() - began
    steps = max(len(probe.times) - 1, 1)
    training = (probe.times[-1] - probe.times[0]) / steps
    rest = max(probe.whole_steps - len(probe.times), 0)
    seconds = whole + rest * training + max(probe.evaluations - 1, 0) * probe.evaluation_seconds
    per_step = [(b - a) / steps for a, b in zip(probe.circuits[0], probe.circuits[-1], strict=True)]
    circuits, shots = (round(end + rest * step) for end, step in zip(probe.circuits[-1], per_step, strict=True))
    return Estimate(seconds, circuits, shots)
