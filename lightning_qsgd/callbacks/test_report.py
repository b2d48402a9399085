"""TestReport: confusion matrix, calibration and a table of the classes; or the generated answers."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import lightning as L
import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from lightning_qsgd.callbacks.parts import names_of, num_classes_of
from lightning_qsgd.distributed import on_all_ranks
from lightning_qsgd.files import atomic_write
from lightning_qsgd.run_folder import set_aside

_FILES = ("test.json", "classes.csv", "confusion_matrix.png", "answers.jsonl")


class TestReport(L.Callback):
    """Write ``confusion_matrix.png`` and ``classes.csv`` into the run folder at the end of test.

    The table is sorted by F1, lowest first; scores of a class without examples are empty. The module's ``test_step``
    must return a dict of ``labels`` (B,), integers from 0 to C - 1, and one of

    - ``logits`` (B, C), or (B,) or (B, 1) for the second of two classes;
    - ``probabilities``, with the same shapes;
    - ``predictions`` (B,): classes. The data module must then have ``labels`` or ``num_classes``.

    Labels may be omitted, and logits (B, C) returned without a dict, if the batch is a dict with ``labels``, or if the
    number of classes is known and the batch is a tuple of inputs and integer labels. Rows with the label -100 are not
    counted. Other modules are left alone.

    The callback logs ``test/calibration_error``, except for predictions: the expected calibration error over 15 bins of
    confidence, in [0, 1] (Guo et al. 2017, arXiv 1706.04599). The data module's ``labels`` name the classes; without
    them they are numbered.

    If ``test_step`` returns ``{"rows": [...]}`` with a dict for each example, which has an ``id``, the callback writes
    these dicts to ``answers.jsonl`` instead, sorted by id. In a distributed run rank 0 writes those of all ranks.

    Files of an earlier test, including ``test.json``, get a number: ``test_1.json``, ``classes_1.csv`` and so on.

    Attributes:
        examples: number of tested examples on all ranks, or None for a module that is left alone.
        answers, classes: the files answers.jsonl and classes.csv once they are written; None on ranks above 0.
        table: a dict for each class, lowest F1 first: label, examples, precision, recall, f1. The last three are None
            for a class without examples. Empty until test has ended.
    """

    __test__ = False  # pytest would collect a class of this name

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] = []
        self.examples: int | None = None
        self.answers: Path | None = None
        self.classes: Path | None = None
        self._metrics: MetricCollection | None = None
        self._rows: list[dict[str, Any]] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset."""
        self._metrics, self._rows = None, []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch, or keep its rows."""
        if isinstance(outputs, dict) and "rows" in outputs:
            self._rows += outputs["rows"]
            return
        names = names_of(trainer, "labels")
        found = scores_and_labels(outputs, batch, num_classes_of(trainer, pl_module))
        if found is None:
            return
        scores, labels, classes = found
        if names and len(names) != classes:
            raise ValueError(
                f"test_step returned scores of {classes} classes, and the data module's labels are {len(names)}: "
                f"{', '.join(map(str, names[:8]))}; give it one for each class"
            )
        if self._metrics is None:
            per_class: dict[str, Any] = {"num_classes": classes, "average": None}
            metrics: dict[str, Any] = {
                "confusion": MulticlassConfusionMatrix(classes),
                "precision": MulticlassPrecision(**per_class),
                "recall": MulticlassRecall(**per_class),
                "f1": MulticlassF1Score(**per_class),
            }
            if scores.ndim == 2:
                metrics["calibration"] = MulticlassCalibrationError(classes, n_bins=15)
            self._metrics = MetricCollection(metrics, compute_groups=False).to(scores.device)
        if not len(labels):  # all of them -100
            return
        if scores.is_floating_point() and scores.isnan().any():
            rank_zero_warn("test_step returned NaN; such rows count as predictions of the first class")
        self._metrics.update(scores, labels)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the calibration error and write figure and table, or write the rows."""
        rows = [row for part in on_all_ranks(self._rows) for row in part]
        counted = all(on_all_ranks(self._metrics is not None))
        values = self._metrics.compute() if counted and self._metrics is not None else {}  # a collective call
        if "calibration" in values:
            pl_module.log("test/calibration_error", values["calibration"], sync_dist=True)  # the same on all ranks
        folder = trainer.log_dir  # a collective call
        dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
        if folder is None or dry or not trainer.is_global_zero:
            return
        set_aside(Path(folder), _FILES)
        if rows:
            self._write_answers(Path(folder), rows)
        if values:
            self._write_classes(Path(folder), values, names_of(trainer, "labels"))

    def _write_classes(self, folder: Path, values: dict[str, Tensor], names: list[str] | None) -> None:
        confusion = values["confusion"].cpu().numpy()
        names = names or [str(k) for k in range(len(confusion))]
        self.examples, self.classes = int(confusion.sum()), folder / "classes.csv"
        numbers = [values[name].tolist() for name in ("precision", "recall", "f1")]
        columns: list[str] = ["label", "examples", "precision", "recall", "f1"]
        rows = zip(names, confusion.sum(1).tolist(), *numbers, strict=True)
        known = [row if row[1] else (*row[:2], None, None, None) for row in rows]
        table = [dict(zip(columns, row, strict=True)) for row in known]
        self.table = sorted(table, key=lambda row: 2.0 if row["f1"] is None else row["f1"])
        with atomic_write(self.classes) as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for row in self.table:
                writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        with atomic_write(folder / "confusion_matrix.png", "wb") as file:
            confusion_figure(confusion, names).savefig(file, dpi=150)

    def _write_answers(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        self.examples, self.answers = len(rows), folder / "answers.jsonl"
        with atomic_write(self.answers) as file:
            for row in sorted(rows, key=lambda row: row["id"]):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def confusion_figure(confusion: np.ndarray, names: list[str]) -> Figure:
    """Heat map of a confusion matrix.

    Args:
        confusion: counts (C, C), true class by predicted class.
        names: names of the C classes.
    """
    classes = len(names)
    size = min(4 + 0.28 * classes, 24)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / confusion.sum(1, keepdims=True).clip(1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = 8 if classes > 20 else 9
    axes.set_xticks(range(classes), names, rotation=90, fontsize=small)
    axes.set_yticks(range(classes), names, fontsize=small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("Confusion matrix: colour by share of the true class" + ("" if classes > 20 else ", counts"))
    figure.colorbar(picture, ax=axes, shrink=0.7)
    if classes <= 20:
        for (i, j), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[i, j] > 0.5 else "black"
                axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)
    return figure


IGNORED = -100  # the label that torch's losses ignore
_KINDS = ("logits", "probabilities", "predictions")


def scores_and_labels(outputs: Any, batch: Any, classes: int | None) -> tuple[Tensor, Tensor, int] | None:
    """Scores and labels of a batch, as :class:`TestReport` finds them.

    Args:
        outputs: output of ``test_step``.
        batch: the batch.
        classes: C if it is known, or None.

    Returns:
        Probabilities (B, C) float32 or predictions (B,) int64, labels (B,) int64, and C; without rows whose label is
        -100. None if the module is no classifier.

    Raises:
        ValueError: if logits, probabilities, predictions or labels have invalid shapes or values.
    """
    kind = next((name for name in _KINDS if isinstance(outputs, Mapping) and name in outputs), None)
    if kind is None:
        inside = _labels_of(batch, classes)
        return _counted(outputs, inside, "logits", classes) if _are_logits(outputs, inside, classes) else None
    labels = outputs["labels"] if outputs.get("labels") is not None else _labels_of(batch, classes)
    if labels is None:
        raise ValueError(f"test_step returned {kind} without labels; return {{{kind!r}: ..., 'labels': ...}}")
    return _counted(torch.as_tensor(outputs[kind]), torch.as_tensor(labels), kind, classes)


def _labels_of(batch: Any, classes: int | None) -> Any:
    """Labels in the batch: the entry of a dict, or the second of a tuple if the number of classes is known."""
    if isinstance(batch, Mapping):
        return batch.get("labels")
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and classes is not None
    return batch[1] if is_pair and isinstance(batch[1], Tensor) and not batch[1].is_floating_point() else None


def _are_logits(outputs: Any, labels: Any, classes: int | None) -> TypeGuard[Tensor]:
    """Whether an output without a name must be logits; it could be anything, such as a loss."""
    if not isinstance(outputs, Tensor) or not isinstance(labels, Tensor) or labels.is_floating_point():
        return False
    fits = outputs.ndim == 2 and outputs.shape[1] > 1 and labels.shape == outputs.shape[:1]
    return fits and outputs.is_floating_point() and classes in (None, outputs.shape[1])


def _counted(scores: Tensor, labels: Tensor, kind: str, classes: int | None) -> tuple[Tensor, Tensor, int]:
    shapes = f"{kind} {tuple(scores.shape)} and labels {tuple(labels.shape)}"
    scores, labels = (t[:, 0] if t.ndim == 2 and t.shape[1] == 1 else t for t in (scores, labels))
    if scores.ndim not in (1, 2) or (kind == "predictions" and scores.ndim != 1) or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"test_step returned {shapes}; they must be {'(B,)' if kind == 'predictions' else '(B, C)'} and (B,)"
        )
    if kind != "predictions":
        scores = _probabilities(scores.float(), kind)
        classes = scores.shape[1]
    elif classes is None:
        raise ValueError("test_step returned predictions; give the data module num_classes, or labels: their names")
    kept = labels != IGNORED
    scores, labels = scores[kept], labels[kept].to(scores.device)
    for name, values in ({"labels": labels} | ({kind: scores} if kind == "predictions" else {})).items():
        wrong = values[(values != values.long()) | (values < 0) | (values >= classes)]
        if len(wrong):
            raise ValueError(
                f"test_step returned {shapes}: {name} must be integers from 0 to {classes - 1}, and "
                f"{wrong[0].item():g} is among them"
            )
    return scores if kind != "predictions" else scores.long(), labels.long(), classes


def _probabilities(scores: Tensor, kind: str) -> Tensor:
    """Probabilities (B, C), also from scores (B,) of the second of two classes."""
    if kind == "logits" and scores.ndim == 2:
        return scores.softmax(-1)
    if scores.ndim == 1:
        second = scores.sigmoid() if kind == "logits" else scores
        scores = torch.stack([1 - second, second], 1)
    if ((scores < -0.01) | (scores > 1.01)).any():
        raise ValueError("test_step returned probabilities outside of [0, 1]; if they are logits, name them logits")
    return scores
