"""PredictionWriter: class probabilities as a CSV file in the run folder."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from lightning_qsgd.files import atomic_write


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv`` at the end of predict: id, label (most probable class), probability, and one column
    per class. The file appears complete or not at all.

    Args:
        filename: within the run folder. Default: "predictions.csv".

    Attributes:
        path: the file, once written.
    """

    def __init__(self, filename: str = "predictions.csv") -> None:
        super().__init__("epoch")
        self.filename = filename
        self.path: Path | None = None

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write all predictions, in the order of the data; in a distributed run one file per rank."""
        probabilities = torch.cat(list(predictions)).float().cpu()  # (N, C)
        ids = [i for loader in batch_indices for batch in loader for i in batch]
        name = Path(self.filename)
        if trainer.world_size > 1:
            name = name.with_stem(f"{name.stem}-rank{trainer.global_rank}")
        self.path = Path(trainer.log_dir or ".") / name
        top, label = probabilities.max(-1)
        with atomic_write(self.path, "w") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "label", "probability", *(f"p{c}" for c in range(probabilities.shape[1]))])
            for i, k, p, row in zip(ids, label.tolist(), top.tolist(), probabilities.tolist(), strict=True):
                writer.writerow([i, k, f"{p:.6f}", *(f"{x:.6f}" for x in row)])
