"""MonitorCheck: which metrics are waited for that nobody logs."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_qsgd.callbacks.parts import callbacks_of

_SCHEDULER, _STOPPING = "scheduler.monitor", "EarlyStopping.monitor"


class MonitorCheck(Checkpoint):
    """Says which monitored metrics are not logged: after the sanity check, and at the end of the first epoch.

    A default that does not fit the module, such as val/accuracy where numbers are predicted, is warned of once. What
    somebody asked for ends the run, once that epoch is saved: Lightning calls checkpoint callbacks last and in their
    order, so that this one belongs behind :class:`ExactResume`. The same holds for the metrics of
    ``ReduceLROnPlateau`` and ``EarlyStopping``.

    Args:
        monitors: metrics by the option that names them, such as {"checkpoint.monitor": "val/accuracy"}.
        asked: the options among them that somebody named.

    Raises:
        ValueError: at the start of the second epoch or the end of training, if an asked-for metric is not logged.
    """

    def __init__(self, monitors: Mapping[str, str], asked: frozenset[str] = frozenset()) -> None:
        self.monitors, self.asked = dict(monitors), asked
        self._error: str | None = None
        self._done = False
        self._strict: list[EarlyStopping] = []
        self._plateaus: list[Any] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin anew."""
        self._error, self._done = None, False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep early stopping and schedulers from ending the run before its epoch is saved."""
        self._plateaus = [c for c in trainer.lr_scheduler_configs if c.reduce_on_plateau and c.strict]
        for config in self._plateaus:
            config.strict = False
        self._strict = [callback for callback in callbacks_of(trainer, EarlyStopping) if callback.strict]
        for callback in self._strict:
            callback.strict = False

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn of what validation does not log; training may do so."""
        for option, metric in self._missing(trainer, asked=True).items():
            rank_zero_warn(
                f"{_said(option, metric, trainer)}. Unless training logs it, this run ends after the first epoch: set "
                f"{_way(option)}"
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look once, when training and validation have logged."""
        validates = trainer.enable_validation and sum(map(int, trainer.num_val_batches)) > 0
        if self._done or (validates and not trainer.fit_loop.epoch_loop.val_loop._has_run):
            return
        self._done = True
        for part in (*self._strict, *self._plateaus):
            part.strict = True
        missing = self._missing(trainer, asked=True)
        if not validates:  # nobody can expect what validation would log
            missing = {option: metric for option, metric in missing.items() if option not in self.monitors}
        for config in trainer.lr_scheduler_configs:
            if config.monitor in missing.values():
                config.strict = False  # as early stopping
        if missing:
            said = "; ".join(_said(option, metric, trainer) for option, metric in missing.items())
            self._error = f"{said}. Set {', '.join(map(_way, missing))}"
        elif metric := self._missing(trainer, asked=False).get("checkpoint.monitor"):
            rank_zero_warn(
                f"{_said('checkpoint.monitor', metric, trainer)}: there will be no best.ckpt. Set --checkpoint.monitor "
                "and --checkpoint.mode"
            )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run, if it must: the epoch before is saved."""
        self._end(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run with an error, if it must."""
        self._end(trainer)

    def _end(self, trainer: L.Trainer) -> None:
        if self._error:
            error, self._error = self._error, None
            raise ValueError(f"{error}. What was trained so far is saved: add --ckpt_path last to go on")

    def _missing(self, trainer: L.Trainer, asked: bool) -> dict[str, str]:
        """Metrics that are not logged, by option: those that somebody asked for, or the defaults."""
        monitors = {option: metric for option, metric in self.monitors.items() if (option in self.asked) is asked}
        if asked:
            waiting = [(_SCHEDULER, c.monitor) for c in trainer.lr_scheduler_configs if c.reduce_on_plateau]
            waiting += [(_STOPPING, callback.monitor) for callback in self._strict]
            monitors |= {option: metric for option, metric in waiting if metric}
        known = {"epoch", "step", *trainer.callback_metrics}
        return {option: metric for option, metric in monitors.items() if metric not in known}


def _said(option: str, metric: str, trainer: L.Trainer) -> str:
    logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
    return f"Invalid {option}: {metric!r} is not logged; logged are: {logged}"


def _way(option: str) -> str:
    ways = {
        _SCHEDULER: "--model.scheduler.monitor (or 'monitor' in what your configure_optimizers returns)",
        _STOPPING: "the monitor of EarlyStopping in trainer.callbacks",
    }
    return ways.get(option, f"--{option}")
