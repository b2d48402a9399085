"""PredictionWriter: predicted labels or texts as a file in the run folder."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_qsgd.distributed import on_all_ranks
from lightning_qsgd.files import atomic_write


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv`` at the end of predict: id, text (where batches hold ``text``), label, probability.

    Takes class probabilities (B, C) from ``predict_step``, or a list of B texts: then the columns are id, prompt (where
    batches hold ``prompt``), generated. Ids are the batches' ``id``, or else the rows' numbers from 0; labels are named
    by the data module's ``labels``, or else numbered. Where a batch has a list ``empty``, rows with True have no
    prediction: those columns are empty (null in JSON lines). Rows stand in the order of the data. The file appears
    complete or not at all; in a distributed run rank 0 writes it, with the rows of all ranks.

    Args:
        filename: within the run folder; a name that ends in .jsonl makes it JSON lines, any other CSV; None: write
            nothing. Default: "predictions.csv".
        all_classes: add the probability of each class, one column per label. Default: False.

    Attributes:
        path: the file, once written; None on ranks above 0.
    """

    def __init__(self, filename: str | None = "predictions.csv", all_classes: bool = False) -> None:
        super().__init__("batch")
        self.filename, self.all_classes = filename, all_classes
        self.path: Path | None = None
        self._header: list[str] = []
        self._rows: list[tuple[tuple[int, int], list[Any]]] = []  # place in the data: loader and number; columns

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._rows = []

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the rows of a batch.

        Raises:
            ValueError: if the prediction is neither a (B, C) tensor nor a list of texts.
        """
        if self.filename is None:
            return
        if isinstance(prediction, list) and all(isinstance(text, str) for text in prediction):
            prompts, empty = batch.get("prompt"), batch.get("empty", [False] * len(prediction))
            for i, text in enumerate(prediction):
                number = batch_indices[i] if batch_indices else len(self._rows)
                row = [
                    batch["id"][i] if "id" in batch else number,
                    *([prompts[i]] if prompts else []),
                    None if empty[i] else text,
                ]
                self._rows.append(((dataloader_idx, number), row))
            self._header = ["id", *(["prompt"] if prompts else []), "generated"]
            return
        if not isinstance(prediction, Tensor) or prediction.ndim != 2:
            got = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
            raise ValueError(
                f"predict_step returned {got}; PredictionWriter takes class probabilities (batch, classes), or "
                "a list of texts. Switch it off with --predictions.filename=null, and write your own callback"
            )
        names = getattr(getattr(trainer, "datamodule", None), "labels", None)
        probabilities = prediction.float().cpu()
        best, label = probabilities.max(-1)
        for i, (p, k) in enumerate(zip(best.tolist(), label.tolist(), strict=True)):
            number = batch_indices[i] if batch_indices else len(self._rows)
            row = [batch["id"][i] if "id" in batch else number]
            row += [batch["text"][i]] if "text" in batch else []
            row += [names[k] if names else k, f"{p:.6f}"]
            row += [f"{x:.6f}" for x in probabilities[i].tolist()] if self.all_classes else []
            if "empty" in batch and batch["empty"][i]:
                known = 1 + ("text" in batch)
                row = row[:known] + [None] * (len(row) - known)
            self._rows.append(((dataloader_idx, number), row))
        header = ["id", *(["text"] if "text" in batch else []), "label", "probability"]
        every = names or range(probabilities.shape[1])
        self._header = header + ([f"p({name})" for name in every] if self.all_classes else [])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file."""
        folder = trainer.log_dir  # asks all ranks
        if self.filename is None:
            return
        rows = [row for part in on_all_ranks(self._rows) for row in part]
        if not trainer.is_global_zero:
            return
        self.path = Path(folder or ".") / self.filename
        ordered = [row for _, row in sorted(rows, key=lambda row: row[0])]
        with atomic_write(self.path, "w") as file:
            if self.path.suffix == ".jsonl":
                lines = (dict(zip(self._header, row, strict=True)) for row in ordered)
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            else:
                writer = csv.writer(file)
                writer.writerow(self._header)
                writer.writerows(ordered)
