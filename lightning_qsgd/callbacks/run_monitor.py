"""RunMonitor: the schedule of the learning rate and the cost of a run in the loggers, and the layout of TensorBoard."""

import time
from typing import Any

import lightning as L
import torch

from lightning_qsgd.callbacks.dashboard import dashboard
from lightning_qsgd.callbacks.parts import superpositional, tensorboard_writers
from lightning_qsgd.callbacks.run_summary import count_circuits, peak_memory


class RunMonitor(L.Callback):
    """Logs what any run has, every n optimizer steps; in TensorBoard it arranges all charts under Custom Scalars.

    ``train/learning_rate``, of the step (with several parameter groups ``train/learning_rate/0`` and so on);
    ``cost/seconds_per_step``, the mean since the last record, without loading and validation and without the first
    step, which does one-time work; ``cost/memory_GB``, the peak resident memory of rank 0, and ``cost/gpu_memory_GB``;
    ``cost/other_circuits`` and ``cost/other_shots``, of layers and of a displacement so far, where any ran (those of
    the perturbation are PerturbationMonitor's).

    Args:
        every_n_steps: optimizer steps between two records, at least 1; 0: neither records nor layout. Default: 50.

    Raises:
        ValueError: for a negative every_n_steps.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if every_n_steps < 0:
            raise ValueError(f"Invalid every_n_steps: {every_n_steps}; it must be at least 0")
        self.every_n_steps = every_n_steps
        self._rates: dict[str, float] | None = None  # of the step that is recorded
        self._started, self._seconds = 0.0, 0.0  # of the batch; since the last record
        self._last: int | None = None  # the step of the last record

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the layout."""
        self._rates, self._last = None, None
        if self.every_n_steps and trainer.is_global_zero:
            for writer in tensorboard_writers(trainer.loggers):
                writer.add_custom_scalars(dashboard(trainer, pl_module))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Note the learning rates of every n-th step, before a scheduler moves them."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            groups = optimizer.param_groups
            names = [""] if len(groups) == 1 else [f"/{k}" for k in range(len(groups))]
            rates = {f"train/learning_rate{name}": float(g["lr"]) for name, g in zip(names, groups, strict=True)}
            self._rates = rates

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, in every n-th step."""
        self._seconds += time.perf_counter() - self._started
        metrics, self._rates = self._rates, None
        if metrics is None:
            return
        step, seconds = trainer.global_step - 1, self._seconds
        if self._last is not None:
            metrics["cost/seconds_per_step"] = seconds / max(step - self._last, 1)
        self._last, self._seconds = step, 0.0
        if not trainer.is_global_zero or not trainer.loggers:
            return
        metrics["cost/memory_GB"] = peak_memory()
        if pl_module.device.type == "cuda":
            metrics["cost/gpu_memory_GB"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        ours = superpositional(trainer.optimizers)
        circuits, shots, _ = count_circuits(pl_module, ours)
        if ours is not None:
            circuits, shots = circuits - ours.perturbation.circuits, shots - ours.perturbation.shots
        if circuits:
            metrics |= {"cost/other_circuits": circuits, "cost/other_shots": shots}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
