"""TimeToTarget: how long a run takes until a metric reaches a target."""

import time
from typing import Any, Literal

import lightning as L


class TimeToTarget(L.Callback):
    """Record epochs, optimizer steps and training seconds until ``metric`` first reaches ``target``.

    Args:
        metric: a validation metric. If it is not logged, nothing is recorded. Default: "val/accuracy"; the commands
            take metric and mode from ``checkpoint.monitor``.
        target: the value to reach. None records the history only. Default: 0.9, the target of arXiv 2511.01918; the
            commands take None for other metrics than val/accuracy.
        mode: "max" (default): reached from below; "min": from above.

    Attributes:
        epochs, steps, seconds: those at the first validation that reached the target, or None. Seconds exclude
            validation.
        elapsed: training seconds without validation.
        history: the metric after each validation.

    Raises:
        ValueError: for an unknown mode.
    """

    def __init__(
        self, metric: str = "val/accuracy", target: float | None = 0.9, mode: Literal["max", "min"] = "max"
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"Invalid mode: {mode!r}; it must be 'max' or 'min'")
        self.metric, self.target, self.mode = metric, target, mode
        self.epochs: int | None = None
        self.steps: int | None = None
        self.seconds: float | None = None
        self.elapsed = 0.0
        self.history: list[float] = []
        self._started: float | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._stop()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock if the epoch ends without validation."""
        self._stop()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the metric."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.metric not in trainer.callback_metrics:
            self._started = time.perf_counter()
            return
        value = float(trainer.callback_metrics[self.metric])
        self.history.append(value)
        reached = self.target is not None and (value >= self.target if self.mode == "max" else value <= self.target)
        if self.epochs is None and reached:
            self.epochs, self.steps = trainer.current_epoch + 1, trainer.global_step
            self.seconds = self.elapsed
        self._started = time.perf_counter()  # if validation runs within an epoch

    def _stop(self) -> None:
        if self._started is not None:
            self.elapsed += time.perf_counter() - self._started
            self._started = None

    def state_dict(self) -> dict[str, Any]:
        """The record, with the seconds so far."""
        names = ("epochs", "steps", "seconds", "elapsed", "history")
        state = {name: getattr(self, name) for name in names}
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return state | {"elapsed": self.elapsed + running}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the record."""
        for name, value in state_dict.items():
            setattr(self, name, value)
