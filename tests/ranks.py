"""Callbacks for tests of the command line."""

from pathlib import Path

import lightning as L
import torch


class SaveRanks(L.Callback):
    """Saves each rank's weights and circuit count into the run folder."""

    def on_train_end(self, trainer, pl_module):
        state = {"weights": pl_module.state_dict(), "circuits": trainer.optimizers[0].perturbation.circuits}
        torch.save(state, Path(trainer.log_dir) / f"rank{trainer.global_rank}.pt")


class FailAfterCheckpoint(L.Callback):
    """Fails before the first step, once a checkpoint lies in the run folder."""

    def on_train_batch_start(self, trainer, *_):
        trainer.save_checkpoint(Path(trainer.log_dir) / "checkpoints" / "last.ckpt")
        raise RuntimeError("on purpose")
