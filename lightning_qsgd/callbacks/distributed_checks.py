"""DistributedChecks: checks that the processes of one run agree."""

from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lightning_qsgd.distributed import on_all_ranks


class DistributedChecks(L.Callback):
    """Give all ranks the run folder of rank 0, and refuse ranks that resume from different checkpoints.

    Each rank finds both before it can communicate with the others. The callback also warns once about each validation
    or test loader whose examples Lightning repeats to give all ranks the same number.

    Args:
        folder: the run folder that this rank found.
        checkpoint: the checkpoint that this rank found, or None.

    Raises:
        ValueError: when a command starts, if ranks found different checkpoints.
    """

    def __init__(self, folder: str | Path, checkpoint: str | Path | None = None) -> None:
        self.folder, self.checkpoint = str(folder), None if checkpoint is None else str(checkpoint)
        self._warned: set[str] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare the ranks."""
        found = on_all_ranks((self.folder, self.checkpoint))
        if len({checkpoint for _, checkpoint in found}) > 1:
            each = ", ".join(f"rank {k}: {checkpoint or 'none'}" for k, (_, checkpoint) in enumerate(found))
            raise ValueError(
                f"Invalid ckpt_path: the processes found different checkpoints ({each}); all machines must see the "
                "same folder of runs, trainer.default_root_dir"
            )
        trainer._default_root_dir = found[0][0]  # type: ignore[attr-defined]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the validation loaders."""
        self._warn_of_repetitions("validation", trainer.val_dataloaders)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the test loaders."""
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
