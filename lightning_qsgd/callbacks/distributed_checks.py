"""DistributedChecks: what the processes of one run must agree on."""

from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lightning_qsgd.distributed import on_all_ranks


class DistributedChecks(L.Callback):
    """Gives all ranks the run folder of rank 0, and refuses ranks that resume from different checkpoints.

    Each rank looks for both on its own, before it can talk to the others. It also warns once for each loader of which
    Lightning repeats examples at validation or test, so that all ranks have the same number.

    Args:
        folder: what this rank takes for the run folder.
        checkpoint: what it found to start from; None: nothing.

    Raises:
        ValueError: when a command starts, if ranks found different checkpoints.
    """

    def __init__(self, folder: str | Path, checkpoint: str | Path | None = None) -> None:
        self.folder, self.checkpoint = str(folder), None if checkpoint is None else str(checkpoint)
        self._warned: set[str] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare the ranks' findings."""
        found = on_all_ranks((self.folder, self.checkpoint))
        if len({checkpoint for _, checkpoint in found}) > 1:
            each = ", ".join(f"rank {k}: {checkpoint or 'none'}" for k, (_, checkpoint) in enumerate(found))
            raise ValueError(
                f"Invalid ckpt_path: the processes found different checkpoints ({each}); all machines must see the "
                "same folder of runs, trainer.default_root_dir"
            )
        trainer._default_root_dir = found[0][0]  # type: ignore[attr-defined]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the validation loaders."""
        self._warn_of_repetitions("validation", trainer.val_dataloaders)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the test loaders."""
        self._warn_of_repetitions("test", trainer.test_dataloaders)

    def _warn_of_repetitions(self, split: str, loaders: object) -> None:
        for loader in CombinedLoader(loaders, "sequential").flattened:
            sampler = loader.sampler if isinstance(loader, DataLoader) else None
            if not isinstance(sampler, DistributedSampler) or split in self._warned:
                continue
            n = len(sampler.dataset)  # type: ignore[arg-type]
            if sampler.total_size > n:
                self._warned.add(split)
                rank_zero_warn(
                    f"{split} counts {sampler.total_size - n} of {n} examples twice, so that each of "
                    f"{sampler.num_replicas} processes has {sampler.num_samples}. Make the loader with "
                    "lightning_qsgd.datamodules.evaluation_loader(dataset, batch_size, self.trainer): it does not"
                )
