"""PerturbationMonitor: what the quantum part does, in the loggers."""

from collections.abc import Mapping
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

from lightning_qsgd.optim import SuperpositionalGradientDescent


class PerturbationMonitor(L.Callback):
    """Logs the perturbation's statistics every n steps as ``quantum/...``; does nothing with other optimizers.

    Scalars: those of ``optim/statistics.py`` (norm_ratio, norm_ratio_touched, offset, spread, learning_rate_factor,
    cosine, touched, effective, quantum_weight), and circuits, shots and seconds so far; in TensorBoard the histogram of
    s. Once, at the start: the drawing of the circuit (TensorBoard, text), and surrogate_residual, the root mean square
    distance of the surrogate's outcome probabilities from fresh circuits at 32 random points, beside
    surrogate_residual_expected, what shot noise alone makes of it, and surrogate_clipped_mass, the negative probability
    of the series; with a calibration the results of its tests, calibration_.... With a displacement its radius. Once
    live circuits have failed, fallback_steps: how many steps their series has answered.

    Args:
        every_n_steps: optimizer steps between two records, at least 1; 0: never. Default: 50. A record costs a few
            per cent of a training step (`make bench`), and steps between cost nothing.
        per: also log norm_ratio, offset, spread and cosine of each part that is touched: "group" (``quantum/offset/0``:
            the number of the parameter group) or "layer" (``quantum/offset/model.head``: the module that owns the
            parameters). Default: "model", none.

    Raises:
        ValueError: for a negative every_n_steps or an unknown ``per``.
    """

    def __init__(self, every_n_steps: int = 50, per: Literal["model", "group", "layer"] = "model") -> None:
        if every_n_steps < 0:
            raise ValueError(f"Invalid every_n_steps: {every_n_steps}; it must be at least 0")
        if per not in ("model", "group", "layer"):
            raise ValueError(f"Invalid per: {per!r}; it must be one of model, group, layer")
        self.every_n_steps, self.per = every_n_steps, per

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
        if trainer.is_global_zero:
            record(optimizer, trainer.loggers, trainer.global_step - 1, self._parts(optimizer, pl_module))
        optimizer.statistics = None

    def _parts(self, optimizer: SuperpositionalGradientDescent, module: L.LightningModule) -> dict[str, list[Tensor]]:
        if self.per == "group":
            return {str(k): group["params"] for k, group in enumerate(optimizer.param_groups)}
        if self.per == "layer":
            trained = {p for group in optimizer.param_groups for p in group["params"]}
            own = ((name, [*part.parameters(recurse=False)]) for name, part in module.named_modules())
            return {name: [p for p in params if p in trained] for name, params in own}
        return {}

    def _optimizer(self, trainer: L.Trainer) -> SuperpositionalGradientDescent | None:
        found = (o for o in trainer.optimizers if isinstance(o, SuperpositionalGradientDescent))
        return next(found, None) if self.every_n_steps else None


def record(
    optimizer: SuperpositionalGradientDescent,
    loggers: list[Logger],
    step: int,
    parts: Mapping[str, list[Tensor]] | None = None,
) -> None:
    """Log the statistics of the optimizer's last recorded step as those of optimizer step ``step``.

    Args:
        optimizer: whose statistics; where nothing was perturbed it has none.
        loggers: where they go.
        step: number of the optimizer step, from 0.
        parts: parameters by name, whose own statistics are logged too.
    """
    metrics: dict[str, float] = {}
    if optimizer.displacement is not None:
        metrics["radius"] = optimizer.displacement.last_radius
    statistics = dict(optimizer.statistics or {})
    s = statistics.pop("s", None)
    if s is not None:
        metrics |= {name: value.item() for name, value in statistics.items()}
        counts = ("circuits", "shots", "seconds") + ("fallback_steps",) * (optimizer.perturbation.fallback_steps > 0)
        metrics |= {name: getattr(optimizer.perturbation, name) for name in counts}
        for part, params in (parts or {}).items():
            own = optimizer.statistics_of(params)
            if own["touched"] > 0:
                metrics |= {f"{name}/{part}": own[name].item() for name in ("norm_ratio", "offset", "spread", "cosine")}
        for writer in _writers(loggers):
            writer.add_histogram("quantum/s", s, step)
    for logger in loggers if metrics else []:
        logger.log_metrics({f"quantum/{name}": value for name, value in metrics.items()}, step=step)


def _writers(loggers: list[Logger]) -> list[Any]:
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
