"""A callback for tests of several processes."""

from pathlib import Path

import lightning as L
import torch


class SaveRanks(L.Callback):
    """Saves each rank's weights and circuit count into the run folder."""

    def on_train_end(self, trainer, pl_module):
        state = {"weights": pl_module.state_dict(), "circuits": trainer.optimizers[0].perturbation.circuits}
        torch.save(state, Path(trainer.log_dir) / f"rank{trainer.global_rank}.pt")
