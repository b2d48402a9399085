"""ExactResume: a run that is killed resumes as if it had never stopped."""

import copy
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loops.fetchers import _PrefetchDataFetcher
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_qsgd.callbacks.parts import callbacks_of
from lightning_qsgd.callbacks.resume_state import (
    Position,
    Watched,
    add_logged,
    fetcher_of,
    log_rest,
    may_start_again,
    pack,
    put_counters_right,
    set_metrics,
    unpack,
)
from lightning_qsgd.distributed import on_all_ranks
from lightning_qsgd.run_folder import keep

KEY = "exact_resume"  # its entry in a checkpoint
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # sent by clusters before they take a machine away
_FIT = TrainerFn.FITTING


class Stopped(SystemExit):
    """Raised to end the process after a signal, once a checkpoint is saved."""

    CODE = 128 + signal.SIGTERM  # 143, the code that shells report after SIGTERM

    def __init__(self) -> None:
        super().__init__(self.CODE)


class ExactResume(Checkpoint):
    """Write ``checkpoints/last.ckpt``, from which a run resumes bit for bit.

    Lightning restores weights, optimizer, schedulers and counters. This callback adds for each process:

    - the random number generators of Python, NumPy and torch, and those that loaders, samplers and datasets have as
      attributes;
    - the position of the training loader. It starts as at the beginning of the epoch, and the batches before the
      checkpoint are loaded and dropped, which takes their loading time;
    - the sums and counts of means over the epoch: those of torchmetrics in the module and of
      ``self.log(..., on_epoch=True)``.

    ``last.ckpt`` is written after each epoch and, by time or steps, within epochs. It is always written between two
    optimizer steps, once metrics and logs of the last one are complete, and never with half-accumulated gradients. The
    checkpoint before it is kept as ``previous.ckpt``. SIGTERM and SIGUSR1, which clusters send before they take a
    machine away, end the run after the current optimizer step or a running validation, with a checkpoint and exit code
    143. After any other error in a single process, the state before the failed step is saved if nothing of that step
    was applied.

    Resuming is exact with the same code, machine type, libraries, number of processes and batch size. It is not exact
    for random transforms in workers that outlive an epoch (``persistent_workers``), random numbers that workers or
    ``__iter__`` of an ``IterableDataset`` draw in the first epoch, generators in other objects such as transforms, and
    loaders that are recreated within a run. Checkpoints of other callbacks hold the same entries, but one that is saved
    within a step lacks the rest of that step. With ``training_step(dataloader_iter)`` checkpoints are written between
    epochs only.

    Args:
        every_minutes: minutes between checkpoints within an epoch, above 0. None: not by time. Default: 5.
        every_n_steps: optimizer steps between checkpoints, at least 1. None: not by steps. Default: None.
        keep_previous: whether to keep ``previous.ckpt``. Default: True.

    Raises:
        ValueError: for an invalid value.
        OSError: if a checkpoint cannot be written; the previous one is intact.
    """

    def __init__(
        self, every_minutes: float | None = 5.0, every_n_steps: int | None = None, keep_previous: bool = True
    ) -> None:
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(f"Invalid every_minutes: {every_minutes}; it must be above 0, or null")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"Invalid every_n_steps: {every_n_steps}; it must be at least 1, or null")
        self.every_minutes, self.every_n_steps, self.keep_previous = every_minutes, every_n_steps, keep_previous
        self.stopping = False  # a signal came
        self._begin()

    def _begin(self) -> None:
        self._record: dict[str, Any] | None = None  # this process's entry in the checkpoint
        self._leftover: dict[str, Any] = {}  # sums of a resumed epoch that this process has not logged again yet
        self._stepped: int | None = None  # Lightning's number of logged steps, to be corrected
        self._epoch_start: dict[str, Any] | None = None  # generators before the loader started
        self._last_fetch: dict[str, Any] | None = None  # generators before a loader without length fetched a batch
        self._in_epoch = False
        self._safe: Position | None = None  # the position after the last optimizer step
        self._sums: dict[str, Any] | None = None  # of an epoch that max_steps ends early, before they are reset
        self._before_validation: dict[str, Any] | None = None  # sums
        self._saving: Position | None = None
        self._ending = False
        self._raw: dict[str, Any] | None = None  # the weights, if a callback replaces them by averaged ones

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Reset, and remove partial files of a killed process."""
        if stage == "fit":
            self.stopping = False
            self._begin()
            self._path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            self._whole = False  # whether last.ckpt is known to be readable and may become previous.ckpt
            for begun in self._path.parent.glob(".*.ckpt.*") if trainer.is_global_zero else ():
                begun.unlink(missing_ok=True)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read this process's entry in a checkpoint."""
        if trainer.state.fn != _FIT:
            return
        self._whole = Path(str(trainer.ckpt_path)).resolve() == self._path.resolve()
        if (saved := checkpoint.get(KEY)) is None:
            rank_zero_warn("The checkpoint holds no states of generators: the resumed run will not be exact")
        elif len(saved) != trainer.world_size:
            rank_zero_warn(
                f"The checkpoint is of {len(saved)} processes, this run has {trainer.world_size}: it resumes, but with "
                "other batches than the run that stopped"
            )
        else:
            self._record = saved[trainer.global_rank]
            checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)  # of loaders with a state_dict

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore loader, sums and generators."""
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._watched = Watched.of(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:  # Lightning restores the earlier handlers at the end
                signal.signal(number, self._on_signal)
        if (record := self._record) is None:
            return
        self._record = None
        loop = trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        if loop.restarting and 0 < done < trainer.num_training_batches:
            epoch_start, last_fetch = unpack(record["epoch_start"]), unpack(record["last_fetch"])
            self._watched.restart_loader(trainer, done, epoch_start, last_fetch)
            set_metrics(record["sums"], self._watched.metrics)
            self._in_epoch, self._epoch_start, self._last_fetch = True, epoch_start, last_fetch
            self._leftover = record["sums"]["logged"]
        self._stepped = record["stepped"]
        self._watched.set_generators(unpack(record["generators"]))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save between two epochs, and keep the generators that the loader starts from."""
        if self._in_epoch:
            self._in_epoch = False
            self._save_or_stop(trainer, self._here(trainer), save=True)
        self._watched = Watched.of(trainer, pl_module)  # the loader may have changed
        self._epoch_start = self._watched.generators()
        if may_start_again(trainer):
            iter(fetcher_of(trainer))  # Lightning started it too early; it starts all later ones
        self._last_fetch = self._epoch_start
        self._in_epoch, self._safe = True, self._here(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hook into each fetch: by then logs, validation and hooks of the previous batch are complete."""
        if self._stepped is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped, self._stepped = self._stepped, None
            trainer.fit_loop._restarting = False  # otherwise ReduceLROnPlateau misses the metric of this epoch
        fetcher = fetcher_of(trainer)
        if isinstance(fetcher, _PrefetchDataFetcher) and not isinstance(fetcher._start_profiler, _BeforeFetch):
            fetcher._start_profiler = _BeforeFetch(self._on_fetch, trainer, fetcher._start_profiler)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Continue the means of a resumed epoch."""
        if self._leftover:
            add_logged(self._leftover, trainer)

    def _on_fetch(self, trainer: L.Trainer) -> None:
        before = self._last_fetch
        if fetcher_of(trainer).length is None:
            self._last_fetch = self._watched.generators()
        if self._safe is not None and trainer.global_step == self._safe["step"]:
            return  # gradients are half-accumulated
        self._safe = self._here(trainer) | {"last_fetch": before}
        minutes, steps = (time.monotonic() - self._saved_at) / 60, trainer.global_step - self._saved_step
        late = self.every_minutes is not None and minutes >= self.every_minutes
        late = late or (self.every_n_steps is not None and steps >= self.every_n_steps)
        self._save_or_stop(trainer, self._safe, late)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the sums of training for checkpoints during validation, which adds its own."""
        self._before_validation = self._here(trainer)["sums"] if self._in_epoch else None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete the means of a resumed epoch; keep the sums of one that max_steps ends early."""
        finished = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        self._sums = None if finished else self._here(trainer)["sums"]
        if callbacks_of(trainer, WeightAveraging):
            self._raw = {name: copy.deepcopy(value) for name, value in pl_module.state_dict().items()}
        if finished:
            add_logged(self._leftover, trainer)
            log_rest(self._leftover, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state."""
        self._in_epoch = self._sums is not None
        if trainer.global_step > self._saved_step:
            self._ending = True
            self._save(trainer, self._here(trainer) | ({"sums": self._sums} if self._in_epoch else {}))

    # ---- saving

    def _on_signal(self, number: int, frame: Any) -> None:
        self.stopping = True

    def _here(self, trainer: L.Trainer) -> Position:
        add_logged(self._leftover, trainer)
        return self._watched.position(trainer) | {"last_fetch": self._last_fetch}

    def _save_or_stop(self, trainer: L.Trainer, here: Position, save: bool) -> None:
        """Save if any process wants to, and stop if any process got a signal."""
        stop = self.stopping
        if trainer.world_size > 1:
            save = trainer.strategy.reduce_boolean_decision(save or stop, all=False)
            stop = save and trainer.strategy.reduce_boolean_decision(stop, all=False)
        if save or stop:
            self._save(trainer, here)
        if stop:
            raise Stopped

    def _save(self, trainer: L.Trainer, here: Position) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:  # the resumed run will not log this again
            logger.save()
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.flush()
        if self.keep_previous and self._whole and trainer.is_global_zero and self._path.is_file():
            keep(self._path, self._path.with_name("previous.ckpt"))
        self._saving, self._safe = here, None  # if this fails, a second attempt would too
        try:
            trainer.save_checkpoint(self._path, weights_only=False)
        finally:
            self._saving = None
        self._safe, self._whole = here, True
        self._saved_step, self._saved_at = here["step"], time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the entry to every checkpoint of a training run. Called on all processes."""
        if trainer.state.fn != _FIT or self._epoch_start is None:
            return
        if self._ending and self._raw is not None and "current_model_state" in checkpoint:
            checkpoint["current_model_state"] = self._raw  # lightning 2.6: WeightAveraging has replaced the weights
        loops = checkpoint["loops"]["fit_loop"]
        here, own = self._position_to_save(trainer)
        if own:
            put_counters_right(loops, here, self._in_epoch)
            checkpoint["epoch"] = loops["epoch_progress"]["current"]["completed"]
        sums = here["sums"] | {"logged": self._leftover | here["sums"]["logged"]}
        record = {"generators": pack(here["generators"]), "epoch_start": pack(self._epoch_start)}
        record |= {"last_fetch": pack(here["last_fetch"]), "stepped": here["stepped"], "sums": sums}
        checkpoint[KEY] = on_all_ranks(record)
        checkpoint["stopped_early"] = trainer.should_stop and not self._in_epoch and not trainer.interrupted

    def _position_to_save(self, trainer: L.Trainer) -> tuple[Position, bool]:
        """The position that a checkpoint records, and whether Lightning's counters must be corrected for it."""
        if self._saving is not None:
            return self._saving, True
        within = trainer.training and trainer.fit_loop._should_accumulate()  # accumulated gradients are not saved
        if within and self._safe is not None and self._safe["versions"] == self._watched.versions():
            return self._safe, True
        here = self._here(trainer) | {"stepped": None}
        if trainer.validating and self._before_validation is not None:
            here["sums"] = self._before_validation
        return here, False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save the state after the last whole step, if nothing has changed since."""
        safe = self._safe
        if safe is None or isinstance(exception, Stopped) or trainer.world_size > 1 or safe["step"] <= self._saved_step:
            return
        if safe["versions"] != self._watched.versions():
            return  # a part of the step was applied
        try:
            self._save(trainer, safe)
        except Exception as error:  # the user must read the first error
            rank_zero_warn(f"No checkpoint of step {safe['step']}: {error}")


class _BeforeFetch:
    """Calls ``look`` before a fetch, and then the profiler."""

    def __init__(self, look: Callable[[L.Trainer], None], trainer: L.Trainer, profile: Callable[[], None]) -> None:
        self.look, self.trainer, self.profile = look, trainer, profile

    def __call__(self) -> None:
        self.look(self.trainer)
        self.profile()
