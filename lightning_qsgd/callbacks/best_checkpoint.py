"""BestCheckpoint: the best weights of a run, whatever happens to its folder; MonitorCheck: metrics nobody logs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_qsgd.callbacks.parts import callbacks_of
from lightning_qsgd.run_folder import set_aside

KEY = "ModelCheckpoint.best"
_SCHEDULER, _STOPPING = "scheduler.monitor", "EarlyStopping.monitor"
State = dict[str, Any]


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, but a resumed run never replaces a checkpoint by a worse one.

    ModelCheckpoint forgets its scores if a run folder was moved or copied, is named by another path, or if its triggers
    change (lightning 2.6). This callback reads the files in the folder instead:

    - Checkpoints keep their scores wherever the folder is. The score in a file on disk counts, even if the file is
      newer than the checkpoint that the run resumes from.
    - If ``monitor`` or ``mode`` changed, or the score of a file is unknown, that file is renamed, for example to
      ``best_val-accuracy.ckpt`` or ``best_1.ckpt``, and the search for the best checkpoint starts over.
    - A monitor that is not logged does not end the run; no checkpoint is written. One that training logs after
      validation is saved at the end of the epoch. :class:`MonitorCheck` reports monitors that are not logged.
    - Between validations (``every_n_train_steps``) a validation metric belongs to earlier weights. The checkpoint is
      then saved after the next validation.

    All arguments are those of ``lightning.pytorch.callbacks.ModelCheckpoint``.

    Raises:
        ValueError: when a command starts, if ``save_top_k`` is above 1 or -1 and the file name is fixed.
    """

    _late = False  # validation has ended without the monitor
    _waits = False  # training does not log the monitor
    _within = False  # at the end of a batch

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse several checkpoints with the same name."""
        super().setup(trainer, pl_module, stage)
        if self._file() is not None and self.save_top_k not in (0, 1):
            raise ValueError(
                f"Invalid checkpoint.save_top_k: {self.save_top_k}; all of them would be {self._file()}: give each a "
                f"name, such as --checkpoint.filename '{self.filename}-{{epoch}}'"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Like Lightning's, but with metrics of training only."""
        self._waits = self._waits or not self._is_logged(trainer)
        self._within = True
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._within = False

    def _monitor_candidates(self, trainer: L.Trainer) -> dict[str, Tensor]:
        candidates = super()._monitor_candidates(trainer)
        if self._within and self._waits and self.monitor is not None:
            candidates.pop(self.monitor, None)  # so that Lightning waits for validation
        return candidates

    @property
    def state_key(self) -> str:
        """A key that does not depend on monitor and triggers."""
        return KEY

    def state_dict(self) -> State:
        """Lightning's state, and the mode."""
        return super().state_dict() | {"mode": self.mode}

    def load_state_dict(self, state_dict: State) -> None:
        """Do nothing: :meth:`on_load_checkpoint` loads the state."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the checkpoint of another run in the folder."""
        file = self._file()
        if trainer.ckpt_path is None and trainer.is_global_zero and file and file.exists():
            rank_zero_warn(f"{file} belongs to another run, and gets a number")
            set_aside(file.parent, [file.name])

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load the scores of the run."""
        if trainer.state.fn != TrainerFn.FITTING or self.dirpath is None:
            return
        found: Any = self._scores(checkpoint) if trainer.is_global_zero else None
        scores, newest = trainer.strategy.broadcast(found)
        if self.monitor is None:
            self.best_model_path = newest
            return
        ranked = sorted(scores, key=lambda path: float(scores[path]), reverse=self.mode == "max")
        ranked = ranked[: self.save_top_k if self.save_top_k > 0 else None]
        self.best_k_models = {path: scores[path] for path in ranked}
        if ranked:
            self.best_model_path, self.best_model_score = ranked[0], scores[ranked[0]]
        if len(ranked) == self.save_top_k:
            self.kth_best_model_path, self.kth_value = ranked[-1], scores[ranked[-1]]

    def _scores(self, checkpoint: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
        """Scores of the files in the folder by path; and the newest file if nothing is monitored, otherwise ""."""
        assert self.dirpath is not None
        folder, state = Path(self.dirpath), state_of(checkpoint)
        fixed = self._file()
        if state is None or (state["monitor"], state["mode"]) != (self.monitor, self.mode):
            self._rename(fixed, state)
            return {}, ""
        best = place(state["best_model_path"], state, folder)
        if self.monitor is None:
            return {}, str(best) if best.is_file() else ""
        scores = {place(path, state, folder): score for path, score in state["best_k_models"].items()}
        scores = {path: score for path, score in scores.items() if path.is_file()}
        if fixed is not None and fixed.is_file():
            score = self._score_in(fixed, scores.pop(fixed, None), checkpoint["global_step"])
            if score is None:
                self._rename(fixed, None)
            else:
                scores[fixed] = score
        return {str(path): score for path, score in scores.items()}, ""

    def _score_in(self, file: Path, known: Tensor | None, step: int) -> Tensor | None:
        """The score of a checkpoint file: its own record, or else that of a later checkpoint."""
        try:
            saved = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
            state = state_of(saved)
        except Exception:  # a broken file raises many kinds; its score is unknown
            return None
        if state is not None and (state["monitor"], state["mode"]) == (self.monitor, self.mode):
            for path, score in state["best_k_models"].items():
                if Path(path).name == file.name:
                    return score
        return known if saved.get("global_step", step + 1) <= step else None

    def _rename(self, file: Path | None, state: State | None) -> None:
        """Rename a file that was chosen by another metric, or whose score is unknown."""
        if file is None or not file.is_file():
            return
        if state is None or state["monitor"] is None or state["best_model_score"] is None:
            set_aside(file.parent, [file.name])
            rank_zero_warn(f"{file} has an unknown {self.monitor}: it gets a number, and the best is looked for anew")
            return
        mode = "" if state["monitor"] != self.monitor else f"{state['mode']}-"
        target = file.with_stem(f"{file.stem}_{mode}{state['monitor'].replace('/', '-')}")
        if target.exists():
            set_aside(target.parent, [target.name])
        os.replace(file, target)
        rank_zero_warn(
            f"checkpoint.monitor was {state['monitor']} ({state['mode']}): that best checkpoint is {target.name} now"
        )

    def _file(self) -> Path | None:
        """The file of the best weights, if its name is fixed like "best"."""
        if self.dirpath is None or not self.filename or "{" in self.filename or self._enable_version_counter:
            return None
        return Path(self.dirpath) / f"{self.filename}{self.FILE_EXTENSION}"

    # ---- a monitor that is not logged

    def _is_logged(self, trainer: L.Trainer) -> bool:
        return self.monitor in (None, "epoch", "step", *trainer.callback_metrics)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Like Lightning's, if the monitor is logged."""
        if self._is_logged(trainer):
            super().on_validation_end(trainer, pl_module)
        elif not trainer.sanity_checking:
            self._late = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Like Lightning's, if the monitor is logged; training may log it after validation."""
        if not self._is_logged(trainer):
            return
        if self._late:
            self._save_on_train_epoch_end = True
        super().on_train_epoch_end(trainer, pl_module)


def state_of(checkpoint: dict[str, Any]) -> State | None:
    """The state of BestCheckpoint or ModelCheckpoint in a checkpoint, or None."""
    states = checkpoint.get("callbacks") or {}
    if KEY in states:
        return states[KEY]
    lightnings = {key: state for key, state in states.items() if key.startswith("ModelCheckpoint{")}  # as in 0.1.0
    for key, state in sorted(lightnings.items(), key=lambda item: Path(item[1]["best_model_path"]).stem != "best"):
        return state | {"mode": "min" if "'mode': 'min'" in key else "max"}
    return None


def place(path: str, state: State, folder: Path) -> Path:
    """The path of a run's file, now that its folder of checkpoints is ``folder``."""
    saved = Path(path)
    return folder / (saved.relative_to(state["dirpath"]) if saved.is_relative_to(state["dirpath"]) else saved.name)


class MonitorCheck(Checkpoint):
    """Report monitored metrics that are not logged: after the sanity check, and at the end of the first epoch.

    A default that does not fit the module, such as val/accuracy for a regression, raises one warning. A metric that the
    user named ends the run once that epoch is saved, and so do the metrics of ``ReduceLROnPlateau`` and
    ``EarlyStopping``. Put this callback after :class:`ExactResume`: Lightning calls checkpoint callbacks last and in
    their order.

    Args:
        monitors: metrics by option, such as {"checkpoint.monitor": "val/accuracy"}.
        asked: the options that the user named.

    Raises:
        ValueError: at the start of the second epoch or the end of training, if a metric that the user named is not
            logged.
    """

    def __init__(self, monitors: Mapping[str, str], asked: frozenset[str] = frozenset()) -> None:
        self.monitors, self.asked = dict(monitors), asked
        self._error: str | None = None
        self._done = False
        self._strict: list[EarlyStopping] = []
        self._plateaus: list[Any] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Reset."""
        self._error, self._done = None, False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep early stopping and schedulers from ending the run before the epoch is saved."""
        self._plateaus = [c for c in trainer.lr_scheduler_configs if c.reduce_on_plateau and c.strict]
        for config in self._plateaus:
            config.strict = False
        self._strict = [callback for callback in callbacks_of(trainer, EarlyStopping) if callback.strict]
        for callback in self._strict:
            callback.strict = False

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn about metrics that validation does not log; training may log them."""
        for option, metric in self._missing(trainer, asked=True).items():
            rank_zero_warn(
                f"{_said(option, metric, trainer)}. Unless training logs it, this run ends after the first epoch: set "
                f"{_way(option)}"
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check once, when training and validation have logged."""
        validates = trainer.enable_validation and sum(map(int, trainer.num_val_batches)) > 0
        if self._done or (validates and not trainer.fit_loop.epoch_loop.val_loop._has_run):
            return
        self._done = True
        for part in (*self._strict, *self._plateaus):
            part.strict = True
        missing = self._missing(trainer, asked=True)
        if not validates:  # validation would log them
            missing = {option: metric for option, metric in missing.items() if option not in self.monitors}
        for config in trainer.lr_scheduler_configs:
            if config.monitor in missing.values():
                config.strict = False  # like early stopping
        if missing:
            said = "; ".join(_said(option, metric, trainer) for option, metric in missing.items())
            self._error = f"{said}. Set {', '.join(map(_way, missing))}"
        elif metric := self._missing(trainer, asked=False).get("checkpoint.monitor"):
            rank_zero_warn(
                f"{_said('checkpoint.monitor', metric, trainer)}: there will be no best.ckpt. Set --checkpoint.monitor "
                "and --checkpoint.mode"
            )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run on an error; the previous epoch is saved."""
        self._end(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run on an error."""
        self._end(trainer)

    def _end(self, trainer: L.Trainer) -> None:
        if self._error:
            error, self._error = self._error, None
            raise ValueError(f"{error}. The training so far is saved: add --ckpt_path last to continue it")

    def _missing(self, trainer: L.Trainer, asked: bool) -> dict[str, str]:
        """Metrics that are not logged by option: those that the user named, or the defaults."""
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
