"""PerturbationMonitor: what the quantum part does, in the loggers."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_qsgd.optim import SuperpositionalGradientDescent


class PerturbationMonitor(L.Callback):
    """Logs the perturbation's statistics every n steps as ``quantum/...``; does nothing with other optimizers.

    Scalars: those of ``optim/statistics.py`` (norm_ratio, norm_ratio_touched, offset, spread, learning_rate_factor,
    cosine, touched, effective, quantum_weight), and circuits, shots and seconds so far; in TensorBoard the histogram of
    s. Once, at the start: the drawing of the circuit (TensorBoard, text), and surrogate_residual, the root mean square
    distance of the surrogate's outcome probabilities from fresh circuits at 32 random points, beside
    surrogate_residual_expected, what shot noise alone makes of it, and surrogate_clipped_mass, the negative probability
    of the series; with a calibration the results of its tests, calibration_....

    Args:
        every_n_steps: optimizer steps between two records, at least 1; 0: never. Default: 50. A record costs a few
            per cent of a training step (`make bench`), and steps between cost nothing.

    Raises:
        ValueError: for a negative every_n_steps.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if every_n_steps < 0:
            raise ValueError(f"Invalid every_n_steps: {every_n_steps}; it must be at least 0")
        self.every_n_steps = every_n_steps

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what is known once: the circuit and its surrogate's residual."""
        optimizer = self._optimizer(trainer)
        if optimizer is None or trainer.global_step or not trainer.is_global_zero or not trainer.loggers:
            return
        report = optimizer.perturbation.report()
        for name, text in report.items():
            if isinstance(text, str):
                for writer in _writers(trainer.loggers):
                    writer.add_text(f"quantum/{name}", "\n".join(f"    {line}" for line in text.splitlines()))
        numbers: dict[str, float] = {
            f"quantum/{name}": value for name, value in report.items() if not isinstance(value, str)
        }
        for logger in trainer.loggers if numbers else []:
            logger.log_metrics(numbers, step=0)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Ask for statistics in every n-th step."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and trainer.loggers:
            monitored = self._optimizer(trainer)
            if monitored is not None:
                monitored.record_statistics = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the statistics, where they were asked for."""
        optimizer = self._optimizer(trainer)
        if optimizer is None or not optimizer.record_statistics:
            return
        optimizer.record_statistics = False
        if optimizer.statistics is not None and trainer.is_global_zero:
            record(optimizer, trainer.loggers, trainer.global_step - 1)
        optimizer.statistics = None

    def _optimizer(self, trainer: L.Trainer) -> SuperpositionalGradientDescent | None:
        found = (o for o in trainer.optimizers if isinstance(o, SuperpositionalGradientDescent))
        return next(found, None) if self.every_n_steps else None


def record(optimizer: SuperpositionalGradientDescent, loggers: list[Logger], step: int) -> None:
    """Log the statistics of the optimizer's last recorded step as those of optimizer step ``step``."""
    assert optimizer.statistics is not None
    statistics = dict(optimizer.statistics)
    s = statistics.pop("s")
    perturbation = optimizer.perturbation
    metrics: dict[str, float] = {f"quantum/{name}": value.item() for name, value in statistics.items()}
    metrics |= {f"quantum/{name}": getattr(perturbation, name) for name in ("circuits", "shots", "seconds")}
    for logger in loggers:
        logger.log_metrics(metrics, step=step)
    for writer in _writers(loggers):
        writer.add_histogram("quantum/s", s, step)


def _writers(loggers: list[Logger]) -> list[Any]:
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
