"""Callbacks for tests of the command line."""

from pathlib import Path

import lightning as L
import torch


class SaveRanks(L.Callback):
    """Saves each rank's weights, circuit count and whether it ran circuits itself into the run folder."""

    def on_train_end(self, trainer, pl_module):
        perturbation = trainer.optimizers[0].perturbation
        state = {"weights": pl_module.state_dict(), "circuits": perturbation.circuits}
        state["ran"] = perturbation._network is not None
        torch.save(state, Path(trainer.log_dir) / f"rank{trainer.global_rank}.pt")


class FailAfterCheckpoint(L.Callback):
    """Fails before the first step, once a checkpoint lies in the run folder."""

    def on_train_batch_start(self, trainer, *_):
        trainer.save_checkpoint(Path(trainer.log_dir) / "checkpoints" / "last.ckpt")
        raise RuntimeError("on purpose")
