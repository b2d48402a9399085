"""PredictionWriter: write the output of predict_step to a file in the run folder."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_qsgd.callbacks.parts import names_of, num_classes_of
from lightning_qsgd.distributed import on_all_ranks
from lightning_qsgd.files import atomic_write


class PredictionWriter(BasePredictionWriter):
    """Write ``predictions.csv`` at the end of predict, with one row for each row of the data, in its order.

    The first columns are id (the batches' ``id``, or the number of the row from 0), and ``time``, ``file``, ``text``
    and ``prompt`` if batches are dicts that have these lists. With several loaders, a column loader precedes them. The
    other columns depend on the output of ``predict_step`` for a batch of B rows:

    - probabilities (B, C), with C at least 2 and rows in [0, 1] that sum to 1: label and probability of the likeliest
      class. The data module's ``labels`` name the classes; without them they are numbered. If neither ``labels`` nor
      ``num_classes`` of data module or module confirms C, columns p(0), p(1), ... follow. A data module with
      ``target_names`` and no ``labels`` has no classes.
    - other numbers (B,): prediction, and for integers that the data module's ``labels`` name, also label.
    - other numbers (B, K) or (B, ...): a column for each, named by the data module's ``target_names`` if there are K of
      them (prediction_NAME if the batch has a column NAME, such as id), otherwise prediction_0, prediction_1, ...,
      prediction_0_0, ...; at most 10,000.
    - a list of B texts: generated; a list of B numbers: prediction.
    - a dict, dataclass, named tuple or tuple of these: for each entry a column KEY or columns KEY_0, KEY_1, ...; for a
      plain tuple prediction_0, prediction_1, ... Entries that are None are skipped.
    - None: no rows. If all batches return None, there is no file.

    Any other output is an error. If a batch has a list ``empty``, rows that are True in it have no prediction: their
    columns are empty (null in JSON lines). The file appears complete or not at all. In a distributed run rank 0 writes
    the rows of all ranks.

    Args:
        filename: name of the file in the run folder. A name that ends in .jsonl makes it JSON lines, any other CSV.
            None writes nothing. Default: "predictions.csv".
        all_classes: whether to add the probability of each class as a column p(LABEL). Default: False.

    Attributes:
        path: the file once it is written; None on ranks above 0.
    """

    def __init__(self, filename: str | None = "predictions.csv", all_classes: bool = False) -> None:
        super().__init__("batch")
        self.filename, self.all_classes = filename, all_classes
        self.path: Path | None = None
        self._batches: list[_Batch] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset."""
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
            ValueError: if a table cannot hold the prediction, if it does not have one row for each row of the batch, or
                if it is of another kind than earlier ones.
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
        folder = trainer.log_dir  # a collective call
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

    def _columns(
        self, batches: "list[_Batch]", trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, list[Any]]:
        labels, targets = names_of(trainer, "labels"), names_of(trainer, "target_names")
        every = self.all_classes or num_classes_of(trainer, pl_module) is None
        columns: dict[str, list[Any]] = {}
        loaders = [loader for batch in batches for loader, _ in batch.places]
        if any(loaders):
            columns["loader"] = loaders
        columns |= {name: [v for b in batches for v in b.known[name]] for name in batches[0].known}
        targets = targets and [f"prediction_{one}" if one in columns else one for one in targets]
        empty = [no for batch in batches for no in batch.empty]
        for name in batches[0].parts:
            part = joined([batch.parts[name] for batch in batches])
            found = columns_of(name, part, labels, targets, every)
            if twice := columns.keys() & found.keys() - {*_KNOWN}:
                raise ValueError(f"predict_step returned two columns {min(twice)!r}; rename a key")
            columns |= {
                name: [None if no else value for value, no in zip(column, empty, strict=True)]
                for name, column in found.items()
            }
        return columns


def _known(batch: Any) -> dict[str, list[Any]]:
    """The columns that a batch has for its rows."""
    if not isinstance(batch, Mapping):
        return {}
    ids = batch.get("id")
    found = {"id": ids.tolist() if isinstance(ids, Tensor) and ids.ndim == 1 else ids}
    found |= {name: batch.get(name) for name in _KNOWN[1:]}
    return {name: list(column) for name, column in found.items() if isinstance(column, list | tuple)}


def _form(batch: "_Batch") -> str:
    """Names and shapes of a row, which all batches must share."""
    shapes = [f"{name or 'a value'} of {part.shape or 'one'} for each row" for name, part in batch.parts.items()]
    return f"{', '.join(shapes)} with {', '.join(batch.known)}"


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


#: Entries of a batch that are columns.
_KNOWN = ("id", "time", "file", "text", "prompt")
MAX_COLUMNS = 10_000
_WAY_OUT = (
    "predictions.csv takes tensors (rows, ...), a list with a text or a number for each row, and dicts or tuples of "
    "these. Return one of them, or switch the file off with --predictions.filename=null and write your own callback"
)
#: Tolerance for the sum of a row of probabilities: with 16-bit numbers, and with others.
_COARSE, _FINE = 0.02, 1e-4


@dataclass
class Part:
    """A tensor or list in the output for a batch.

    Attributes:
        values: B texts or numbers, or rows of numbers (B, ...).
        probable: whether the rows are class probabilities, that is numbers in [0, 1] that sum to 1. Some may be NaN.
    """

    values: list[Any] | np.ndarray
    probable: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return self.values.shape[1:] if isinstance(self.values, np.ndarray) else ()


def parts_of(returned: Any, rows: int | None) -> dict[str, Part]:
    """The tensors and lists in the output of ``predict_step`` for a batch, by name.

    Args:
        returned: the output, see :class:`PredictionWriter`.
        rows: B if it is known, or None.

    Raises:
        ValueError: if there is not one value or row of values for each row of the batch.
    """
    found: dict[str, Part] = {}
    _collect(returned, "", found)
    lengths = {len(part.values) for part in found.values()}
    if len(lengths) > 1 or (rows is not None and lengths != {rows}):
        of = "" if rows is None else f" for a batch of {rows} rows"
        sizes = ", ".join(f"{len(part.values)} in {name or 'it'}" for name, part in found.items())
        raise ValueError(f"predict_step returned {_described(returned)}{of}: {sizes or 'nothing in it'}. {_WAY_OUT}")
    return found


def _collect(value: Any, name: str, found: dict[str, Part]) -> None:
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple):
        name = name if hasattr(value, "_fields") else name or "prediction"
        value = dict(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if inner is not None:  # such as the loss in a model's output
                _collect(inner, f"{name}_{key}" if name else str(key), found)
        return
    coarse, what = False, _described(value)
    if isinstance(value, Tensor):
        coarse = value.dtype in (torch.bfloat16, torch.float16)
        value = (value.to_dense() if value.layout != torch.strided else value).detach().cpu()
        value = (value.float() if coarse else value).numpy()
    elif isinstance(value, list):
        value = [item.item() if isinstance(item, Tensor) and item.ndim == 0 else item for item in value]
    where = f" in {name!r}" if name else ""
    if name in found:
        raise ValueError(f"predict_step returned two values {name!r}; rename a key")
    if isinstance(value, list) and all(isinstance(item, str | bool | int | float | None) for item in value):
        found[name] = Part(value)
    elif not isinstance(value, np.ndarray) or value.ndim == 0 or value.dtype.kind not in "biuf":
        raise ValueError(f"predict_step returned {what}{where}. {_WAY_OUT}")
    elif (size := math.prod(value.shape[1:])) > MAX_COLUMNS:
        raise ValueError(
            f"predict_step returned {what}{where}: {size:,} numbers for each row, and a table takes "
            f"{MAX_COLUMNS:,}. Reduce it, or switch the file off with --predictions.filename=null"
        )
    else:
        found[name] = Part(value, _are_probabilities(value, _COARSE if coarse else _FINE))


def _are_probabilities(numbers: np.ndarray, far: float) -> bool:
    if numbers.ndim != 2 or numbers.shape[1] < 2 or numbers.dtype.kind != "f":
        return False
    known = numbers[~np.isnan(numbers).all(1)]
    return bool((known >= -far).all() and (known <= 1 + far).all() and (abs(known.sum(1) - 1) <= far).all())


def _described(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        inside = [str(key) for key in value]
    else:
        inside = sorted({type(item).__name__ for item in value}) if isinstance(value, list | tuple) else []
    return f"{type(value).__name__}" + (f" of {', '.join(inside)}" if inside else "")


def joined(parts: Sequence[Part]) -> Part:
    """Join the parts of all batches: N rows, which are probabilities only if they are in each batch."""
    values: Any = [part.values for part in parts]
    lists = isinstance(values[0], list)
    together = [value for batch in values for value in batch] if lists else np.concatenate(values)
    return Part(together, all(part.probable for part in parts))


def columns_of(
    name: str, part: Part, labels: Sequence[str] | None, targets: Sequence[str] | None, every: bool
) -> dict[str, list[Any]]:
    """Columns of N values each.

    Args:
        name: name of the part; "" for an output without parts.
        part: the part, with all rows.
        labels: names of the classes, or None.
        targets: names of the numbers in a row, or None.
        every: whether to add the probability of each class.

    Raises:
        ValueError: if the numbers of labels and classes differ.
    """
    values, word = part.values, name or "prediction"
    if isinstance(values, list):
        texts = not name and all(isinstance(value, str) for value in values)
        return {"generated" if texts else word: values}
    if part.probable and not name and (labels or not targets):  # numbers that sum to 1 may be targets
        return _classes(values, labels, every)
    if values.ndim == 1:
        only = targets[0] if targets and len(targets) == 1 and not name else word
        columns = {only: _plain(values)}
        if not name and labels and values.dtype.kind in "iu" and 0 <= values.min() <= values.max() < len(labels):
            columns["label"] = [labels[k] for k in values.tolist()]
        return columns
    known = (labels or targets) if part.probable else targets
    if values.ndim == 2 and known and len(known) == values.shape[1]:
        names = [f"{name}_{one}" if name else str(one) for one in known]
    else:
        names = ["_".join(map(str, (word, *index))) for index in np.ndindex(values.shape[1:])]
    return dict(zip(names, map(_plain, values.reshape(len(values), -1).T), strict=True))


def _classes(probabilities: np.ndarray, labels: Sequence[str] | None, every: bool) -> dict[str, list[Any]]:
    count = probabilities.shape[1]
    if labels and len(labels) != count:
        raise ValueError(
            f"predict_step returned probabilities of {count} classes, and the data module's labels are {len(labels)}: "
            f"{', '.join(map(str, labels[:8]))}; give it one for each class"
        )
    names: Sequence[Any] = labels or range(count)
    best = np.nan_to_num(probabilities).argmax(1)
    unknown = set(np.flatnonzero(np.isnan(probabilities).all(1)).tolist())
    label = ["" if i in unknown else names[k] for i, k in enumerate(best.tolist())]
    columns = {"label": label, "probability": _share(probabilities[np.arange(len(best)), best])}
    if every:
        columns |= {f"p({name})": _share(column) for name, column in zip(names, probabilities.T, strict=True)}
    return columns


def _share(column: np.ndarray) -> list[float]:
    return [round(value, 6) for value in column.tolist()]


def _plain(column: np.ndarray) -> list[Any]:
    """Python numbers; those of 32 bits keep their digits."""
    return [float(text) for text in column.astype(str)] if column.dtype == np.float32 else column.tolist()


class _Batch(NamedTuple):
    places: list[tuple[int, int]]  # loader, and number in its data
    known: dict[str, list[Any]]  # the batch's own columns
    parts: dict[str, Part]
    empty: list[bool]  # rows without a prediction
