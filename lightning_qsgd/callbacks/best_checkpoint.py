"""BestCheckpoint: the best weights of a run, whatever happens to its folder."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_qsgd.run_folder import set_aside

KEY = "ModelCheckpoint.best"
State = dict[str, Any]


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, of which a resumed run never replaces a checkpoint by a worse one.

    ModelCheckpoint forgets its scores when a run folder was moved or copied, is named by another path, or when its
    triggers change (lightning 2.6). This callback looks at the files of the folder instead:

    - Checkpoints keep their scores wherever the folder lies. A file on disk speaks for itself, also where it is newer
      than the checkpoint that the run is resumed from.
    - Where ``monitor`` or ``mode`` changed, or nobody knows the score of a file, that file gets another name, such as
      ``best_val-accuracy.ckpt`` or ``best_1.ckpt``, and the best is looked for anew.
    - A monitor that is not logged writes nothing, instead of ending the run; one that training logs, after validation,
      is saved at the end of the epoch. :class:`MonitorCheck` says what is not logged.

    - Between validations (``every_n_train_steps``) a monitor of validation is that of earlier weights: the checkpoint
      is saved after the next validation.

    All arguments are those of ``lightning.pytorch.callbacks.ModelCheckpoint``.

    Raises:
        ValueError: when a command starts, for a ``save_top_k`` above 1 or of -1 with a fixed file name.
    """

    _late = False  # validation has ended without the monitor
    _waits = False  # training does not log the monitor
    _within = False  # at the end of a batch

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse several checkpoints of one name."""
        super().setup(trainer, pl_module, stage)
        if self._file() is not None and self.save_top_k not in (0, 1):
            raise ValueError(
                f"Invalid checkpoint.save_top_k: {self.save_top_k}; all of them would be {self._file()}: give each a "
                f"name, such as --checkpoint.filename '{self.filename}-{{epoch}}'"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """As Lightning's, with metrics of training alone."""
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
        """The same whatever the monitor and the triggers."""
        return KEY

    def state_dict(self) -> State:
        """As Lightning's, and the mode."""
        return super().state_dict() | {"mode": self.mode}

    def load_state_dict(self, state_dict: State) -> None:
        """Nothing: :meth:`on_load_checkpoint` has done it."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what lies in a folder that a new run was told to use."""
        file = self._file()
        if trainer.ckpt_path is None and trainer.is_global_zero and file and file.exists():
            rank_zero_warn(f"{file} is of another run, and gets a number")
            set_aside(file.parent, [file.name])

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the scores of the run."""
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
        """Scores of the files in the folder, by path; and the newest file, where nothing is monitored, or ""."""
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
        """The score of a checkpoint file, by its own word, or else by that of a later checkpoint."""
        try:
            saved = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
            state = state_of(saved)
        except Exception:  # whatever a broken file raises: its score is unknown
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
        """The file of the best weights, where its name is fixed and always the same, as "best" is."""
        if self.dirpath is None or not self.filename or "{" in self.filename or self._enable_version_counter:
            return None
        return Path(self.dirpath) / f"{self.filename}{self.FILE_EXTENSION}"

    # ---- a monitor that is not logged

    def _is_logged(self, trainer: L.Trainer) -> bool:
        return self.monitor in (None, "epoch", "step", *trainer.callback_metrics)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As Lightning's, if the monitor is logged."""
        if self._is_logged(trainer):
            super().on_validation_end(trainer, pl_module)
        elif not trainer.sanity_checking:
            self._late = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As Lightning's, if the monitor is logged; also where training logs it, after validation."""
        if not self._is_logged(trainer):
            return
        if self._late:
            self._save_on_train_epoch_end = True
        super().on_train_epoch_end(trainer, pl_module)


def state_of(checkpoint: dict[str, Any]) -> State | None:
    """What a checkpoint says of the best ones of its run; None where it says nothing."""
    states = checkpoint.get("callbacks") or {}
    if KEY in states:
        return states[KEY]
    lightnings = {key: state for key, state in states.items() if key.startswith("ModelCheckpoint{")}  # as in 0.1.0
    for key, state in sorted(lightnings.items(), key=lambda item: Path(item[1]["best_model_path"]).stem != "best"):
        return state | {"mode": "min" if "'mode': 'min'" in key else "max"}
    return None


def place(path: str, state: State, folder: Path) -> Path:
    """Where a file of a run lies now that its folder of checkpoints is ``folder``."""
    saved = Path(path)
    return folder / (saved.relative_to(state["dirpath"]) if saved.is_relative_to(state["dirpath"]) else saved.name)
