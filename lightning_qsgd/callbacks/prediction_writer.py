"""PredictionWriter: what predict_step returns, as a file in the run folder."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_qsgd.callbacks.columns import Part, columns_of, joined, parts_of
from lightning_qsgd.callbacks.parts import names_of, num_classes_of
from lightning_qsgd.distributed import on_all_ranks
from lightning_qsgd.files import atomic_write


class _Batch(NamedTuple):
    places: list[tuple[int, int]]  # in the data: loader and number
    known: dict[str, list[Any]]  # columns of the batch itself: id, text, prompt
    parts: dict[str, Part]
    empty: list[bool]  # rows without a prediction


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv`` at the end of predict: one row for each row of the data, in its order.

    The first columns are id (the batches' ``id``, or else the rows' numbers from 0) and, where batches are dicts with
    ``text`` or ``prompt``, these; with several loaders, loader comes before them. What follows depends on what
    ``predict_step`` returns for a batch of B rows:

    - probabilities (B, C), C at least 2, rows in [0, 1] with a sum of 1: label and probability of the likeliest class.
      Labels are named by the data module's ``labels``, or else numbered. If nothing says that there are C classes
      (``labels``, or ``num_classes`` of data module or module), the columns p(0), p(1), ... come with them.
    - other numbers (B,): prediction; integers that the data module's ``labels`` name: label too.
    - other numbers (B, K) or (B, ...): a column for each, named by the data module's ``target_names`` if these are K,
      or else prediction_0, prediction_1, ..., prediction_0_0, ...; 10,000 at most.
    - a list of B texts: generated; of B numbers: prediction.
    - a dict, dataclass, named or plain tuple of these: a column KEY or columns KEY_0, KEY_1, ... for each; of a plain
      tuple prediction_0, prediction_1, ... Entries that are None are left out.
    - None: no rows; if all batches give None, no file.

    Anything else is an error. Where a batch has a list ``empty``, rows with True have no prediction: their columns are
    empty (null in JSON lines). The file appears complete or not at all; in a distributed run rank 0 writes it, with the
    rows of all ranks.

    Args:
        filename: within the run folder; a name that ends in .jsonl makes it JSON lines, any other CSV; None: write
            nothing. Default: "predictions.csv".
        all_classes: add the probability of each class, one column p(LABEL) per label. Default: False.

    Attributes:
        path: the file, once written; None on ranks above 0.
    """

    def __init__(self, filename: str | None = "predictions.csv", all_classes: bool = False) -> None:
        super().__init__("batch")
        self.filename, self.all_classes = filename, all_classes
        self.path: Path | None = None
        self._batches: list[_Batch] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self.path, self._batches = None, []

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the rows of a batch.

        Raises:
            ValueError: if the prediction is of no kind that a table takes, has not one row for each of the batch's, or
                is of another kind than those before.
        """
        if self.filename is None or prediction is None:
            return
        known = _known(batch)
        rows = len(batch_indices) if batch_indices else next((len(column) for column in known.values()), None)
        parts = parts_of(prediction, rows)
        count = len(next(iter(parts.values())).values)
        begun = sum(len(b.places) for b in self._batches)
        numbers = list(batch_indices or range(begun, begun + count))
        if len(known.get("id", numbers)) != count:
            raise ValueError(f"predict_step returned {count} rows for a batch with {len(known['id'])} ids")
        known = {"id": numbers} | {name: column for name, column in known.items() if len(column) == count}
        empty = batch.get("empty") if isinstance(batch, Mapping) else None
        kept = _Batch([(dataloader_idx, number) for number in numbers], known, parts, list(empty or [False] * count))
        if self._batches and (first := _form(self._batches[0])) != (now := _form(kept)):
            raise ValueError(
                f"predict_step returned {now} for batch {batch_idx}, and {first} for the first one; a table has the "
                "same columns in all rows"
            )
        self._batches.append(kept)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file."""
        folder = trainer.log_dir  # asks all ranks
        if self.filename is None:
            return
        batches = [batch for part in on_all_ranks(self._batches) for batch in part]
        if not batches or not trainer.is_global_zero:
            return
        columns = self._columns(batches, trainer, pl_module)
        places = [place for batch in batches for place in batch.places]
        order = sorted(range(len(places)), key=places.__getitem__)
        self.path = Path(folder or ".") / self.filename
        with atomic_write(self.path, "w") as file:
            if self.path.suffix == ".jsonl":
                for i in order:
                    row = {name: _json(column[i]) for name, column in columns.items()}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows([column[i] for column in columns.values()] for i in order)

    def _columns(self, batches: list[_Batch], trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, list[Any]]:
        labels, targets = names_of(trainer, "labels"), names_of(trainer, "target_names")
        every = self.all_classes or num_classes_of(trainer, pl_module) is None
        columns: dict[str, list[Any]] = {}
        loaders = [loader for batch in batches for loader, _ in batch.places]
        if any(loaders):
            columns["loader"] = loaders
        columns |= {name: [v for b in batches for v in b.known[name]] for name in batches[0].known}
        empty = [no for batch in batches for no in batch.empty]
        for name in batches[0].parts:
            part = joined([batch.parts[name] for batch in batches])
            found = columns_of(name, part, labels, targets, every)
            if twice := columns.keys() & found.keys() - {"id", "text", "prompt"}:
                raise ValueError(f"predict_step returned two columns {min(twice)!r}; rename a key")
            columns |= {
                name: [None if no else value for value, no in zip(column, empty, strict=True)]
                for name, column in found.items()
            }
        return columns


def _known(batch: Any) -> dict[str, list[Any]]:
    """What a batch says of its rows."""
    if not isinstance(batch, Mapping):
        return {}
    ids = batch.get("id")
    found = {"id": ids.tolist() if isinstance(ids, Tensor) and ids.ndim == 1 else ids}
    found |= {name: batch.get(name) for name in ("text", "prompt")}
    return {name: list(column) for name, column in found.items() if isinstance(column, list | tuple)}


def _form(batch: _Batch) -> str:
    """What all batches must have in common: names, and shapes of a row."""
    shapes = [f"{name or 'a value'} of {part.shape or 'one'} for each row" for name, part in batch.parts.items()]
    return f"{', '.join(shapes)} with {', '.join(batch.known)}"


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
