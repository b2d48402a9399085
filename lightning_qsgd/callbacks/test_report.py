"""TestReport: the tables and pictures of a test."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from numpy.typing import NDArray
from PIL import Image

from lightning_qsgd.callbacks.parts import names_of, num_classes_of, tensorboard_writers
from lightning_qsgd.callbacks.test_figures import (
    as_picture,
    calibration_figure,
    confusion_figure,
    drawn,
    forecast_figure,
    mistakes_figure,
    predicted_figure,
)
from lightning_qsgd.callbacks.test_outputs import Numbers, Scores, images_of, known_of, numbers_of, scores_and_labels
from lightning_qsgd.callbacks.test_records import ClassRecord, NumberRecord, Place
from lightning_qsgd.distributed import on_all_ranks, rank, ranks
from lightning_qsgd.files import atomic_write
from lightning_qsgd.run_folder import set_aside

_FILES = (
    "test.json", "answers.jsonl", "classes.csv", "confusion_matrix.png", "calibration.png", "mistakes.csv",
    "mistakes.png", "targets.csv", "predicted.png", "forecast.png",
)  # fmt: skip


class TestReport(L.Callback):
    """Write tables and pictures of a test into the run folder.

    What it writes depends on what the module's ``test_step`` returns for a batch of B rows. Other modules are left
    alone.

    *Classes*: a dict of ``labels`` (B,), integers from 0 to C - 1, and one of

    - ``logits`` (B, C), or (B,) or (B, 1) for the second of two classes;
    - ``probabilities``, with the same shapes;
    - ``predictions`` (B,): classes. The data module must then have ``labels`` or ``num_classes``.

    Labels may be omitted, and logits (B, C) returned without a dict, if the batch is a dict with ``labels``, or if the
    number of classes is known and the batch is a tuple of inputs and integer labels. Rows with the label -100 are not
    counted. The data module's ``labels`` name the classes; without them they are numbered. The files are

    - ``confusion_matrix.png``, and ``classes.csv``: a row for each class, lowest F1 first;
    - ``calibration.png``: share of correct rows by confidence, in 15 bins;
    - ``mistakes.csv``: the 50 most confident mistakes: id, true and predicted class, its probability, and ``file`` and
      ``text`` if batches are dicts that have them;
    - ``mistakes.png``: the first 16 of them as pictures, if the batch's ``inputs``, or its first part, are images
      (B, C, H, W). A method ``pictures(inputs)`` of the data module makes pictures (B, H, W, C) in [0, 1] of them, with
      1 or 3 channels; without it each image is scaled by its own minimum and maximum.

    The last three need logits or probabilities. So does ``test/calibration_error``, which the callback logs: the
    expected calibration error over these bins, in [0, 1] (Guo et al. 2017, arXiv 1706.04599).

    *Numbers*: a dict of ``predictions`` and ``targets``, floating-point numbers (B, K), or (B,) for one, in the units
    of the targets, and for forecasts ``persistence`` (B, K), the last observed values. The data module's
    ``target_names`` name the K targets; without them they are target_0, target_1, ... The files are

    - ``targets.csv``: a row for each target: rows, mse, mae, r2, bias (mean of predicted - true), residual_sd (standard
      deviation of predicted - true), and with persistence skill, 1 - MSE / MSE of persistence. r2 is empty if all true
      values are equal, skill if persistence makes no error;
    - ``predicted.png``: predicted against true and the residuals, of up to 2,000 rows and 4 targets;
    - ``forecast.png``, with persistence: truth, forecast and persistence over the last 200 rows by their ids, and the
      errors by steps ahead if all names end in +1, +2, ...

    *Texts*: ``{"rows": [...]}`` with a dict for each example, which has an ``id``. The file is ``answers.jsonl``, these
    dicts sorted by id.

    Rows are identified by the batch's ``id``. Without it they are numbered from 0; in a distributed run their ids are
    then empty, and they are ordered by rank. NaN is warned about: a row with NaN among its probabilities counts as a
    prediction of the first class, and makes the calibration error NaN; a target with NaN has NaN in its row of the
    table. In a distributed run rank 0 writes the rows of all ranks. Memory does not grow with the number of rows,
    except for texts.

    Pictures are also logged to TensorBoard's Images: by the trainer's TensorBoard loggers, at its step, or see
    ``tensorboard_step``.

    Files of an earlier test, including ``test.json``, get a number: ``test_1.json``, ``classes_1.csv`` and so on.

    Args:
        tensorboard_step: the step of the pictures in event files in the folder ``test`` of the run folder, which are
            written if the trainer has no TensorBoard logger. Default: None, no event files.

    Attributes:
        examples: number of tested examples on all ranks, or None for a module that is left alone.
        answers, classes, mistakes, targets: the files answers.jsonl, classes.csv, mistakes.csv and targets.csv once
            they are written; None on ranks above 0.
        pictures: the pictures that were written.
        table: a dict for each class, lowest F1 first: label, examples, predicted and correct, counts; precision and
            recall, each with the limits NAME_low and NAME_high of its 95 % Wilson interval; f1; and note, which says if
            there are fewer than 10 examples, or no predictions. All scores are None for a class without examples,
            precision is None for a class that was never predicted. Empty until test has ended.
        target_table: a dict for each target, with the columns of targets.csv.

    Raises:
        ValueError: in the hooks, if what ``test_step`` or ``pictures`` returned has invalid shapes or values, or does
            not fit the data module's names.
    """

    __test__ = False  # pytest would collect a class of this name

    def __init__(self, tensorboard_step: int | None = None) -> None:
        self.tensorboard_step = tensorboard_step
        self._reset()

    def _reset(self) -> None:
        self.table: list[dict[str, Any]] = []
        self.target_table: list[dict[str, Any]] = []
        self.examples: int | None = None
        self.answers: Path | None = None
        self.classes: Path | None = None
        self.mistakes: Path | None = None
        self.targets: Path | None = None
        self.pictures: list[Path] = []
        self._classes: ClassRecord | None = None
        self._numbers: NumberRecord | None = None
        self._rows: list[dict[str, Any]] = []
        self._tested: dict[int, int] = {}  # rows by loader

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset."""
        self._reset()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        if isinstance(outputs, Mapping) and "rows" in outputs:
            self._rows += outputs["rows"]
        elif (numbers := numbers_of(outputs)) is not None:
            self._add_numbers(numbers, names_of(trainer, "target_names"), batch, dataloader_idx)
        elif (found := scores_and_labels(outputs, batch, num_classes_of(trainer, pl_module))) is not None:
            self._add_classes(found, names_of(trainer, "labels"), batch, dataloader_idx)

    def _add_numbers(self, found: Numbers, names: list[Any] | None, batch: Any, loader: int) -> None:
        count, targets = found.targets.shape
        if names is not None and len(names) != targets:
            raise ValueError(
                f"test_step returned {targets} numbers for each row, and the data module's target_names are "
                f"{len(names)}: {', '.join(map(str, names[:8]))}; give it one for each number"
            )
        if self._numbers is None:
            names = names or [f"target_{k}" for k in range(targets)]
            self._numbers = NumberRecord([str(name) for name in names], found.persistence is not None)
        record = self._numbers
        if targets != len(record.names) or (found.persistence is None) != (record.persistence is None):
            raise ValueError(
                f"test_step returned {_told(targets, found.persistence is not None)}, and before "
                f"{_told(len(record.names), record.persistence is not None)}; return the same for all batches"
            )
        places, _ = self._places(known_of(batch, count), count, loader)
        record.add(found, places)

    def _add_classes(self, found: Scores, names: list[Any] | None, batch: Any, loader: int) -> None:
        classes, confident = found.num_classes, found.scores.ndim == 2
        if names and len(names) != classes:
            raise ValueError(
                f"test_step returned scores of {classes} classes, and the data module's labels are {len(names)}: "
                f"{', '.join(map(str, names[:8]))}; give it one for each class"
            )
        if self._classes is None:
            self._classes = ClassRecord(classes, confident)
        record = self._classes
        if (len(record.confusion), record.confident) != (classes, confident):
            raise ValueError(
                f"test_step returned {'scores' if confident else 'predictions'} of {classes} classes, and before "
                f"{'scores' if record.confident else 'predictions'} of {len(record.confusion)}; return the same for "
                "all batches"
            )
        if confident and found.scores.isnan().any():
            rank_zero_warn("test_step returned NaN; such rows count as predictions of the first class")
        count = found.batch_size
        known = known_of(batch, count)
        places, ids = self._places(known, count, loader)
        known = ({"id": ids} if "id" not in known else {}) | known
        rows = found.rows.tolist()
        images = images_of(batch, count)
        record.add(
            found,
            [places[row] for row in rows],
            {name: [column[row] for row in rows] for name, column in known.items()},
            images if images is None or len(rows) == count else images[found.rows.to(images.device)],
        )

    def _places(self, known: dict[str, list[Any]], count: int, loader: int) -> tuple[list[Place], list[int | None]]:
        """Where the rows of a batch stand, and the ids of rows whose batch has none."""
        begun = self._tested.get(loader, 0)
        self._tested[loader] = begun + count
        numbers = range(begun, begun + count)
        ids: list[int | None] = list(numbers) if ranks() == 1 else [None] * count
        if "id" in known and all(isinstance(number, int) for number in known["id"]):
            return [(loader, 0, number) for number in known["id"]], ids
        return [(loader, rank(), number) for number in numbers], ids

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the calibration error, and write tables and pictures."""
        rows = [row for part in on_all_ranks(self._rows) for row in part]
        classes, numbers = _merged(on_all_ranks(self._classes)), _merged(on_all_ranks(self._numbers))
        if classes is not None and classes.confident and classes.confusion.any():
            error = torch.tensor(classes.calibration_error, device=pl_module.device)
            pl_module.log("test/calibration_error", error, sync_dist=True)  # the same on all ranks
        folder = trainer.log_dir  # a collective call
        dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
        if folder is None or dry or not trainer.is_global_zero:
            return
        set_aside(Path(folder), _FILES)
        drawings: dict[str, NDArray[np.uint8]] = {}
        if rows:
            self._write_answers(Path(folder), rows)
        if classes is not None:
            drawings |= self._write_classes(Path(folder), classes, trainer)
        if numbers is not None:
            drawings |= self._write_numbers(Path(folder), numbers)
        for name, picture in drawings.items():
            self.pictures.append(Path(folder) / f"{name}.png")
            with atomic_write(self.pictures[-1], "wb") as file:
                Image.fromarray(picture).save(file, "png")
        self._log_pictures(trainer, Path(folder), drawings)

    def _write_classes(self, folder: Path, record: ClassRecord, trainer: L.Trainer) -> dict[str, NDArray[np.uint8]]:
        names = names_of(trainer, "labels") or [str(k) for k in range(len(record.confusion))]
        self.examples, self.classes = int(record.confusion.sum()), folder / "classes.csv"
        self.table = record.table(names)
        _write_table(self.classes, self.table, lambda v: f"{round(v, 4)}")
        drawings = {"confusion_matrix": drawn(confusion_figure, record.confusion, names)}
        if not record.confident or not self.examples:
            return drawings
        drawings["calibration"] = drawn(calibration_figure, record.bins, record.calibration_error, record.invalid)
        if mistakes := [_named(row, names) for row in record.mistakes.rows]:
            self.mistakes = folder / "mistakes.csv"
            _write_table(self.mistakes, mistakes, lambda v: f"{v:.4g}")
        if record.pictures.rows:
            make = getattr(getattr(trainer, "datamodule", None), "pictures", None)
            pictures = [_picture(image, make) for _, image in record.pictures.rows]
            texts = [_above(_named(row, names)) for row, _ in record.pictures.rows]
            total = self.examples - int(record.confusion.trace()) - record.invalid
            drawings["mistakes"] = drawn(mistakes_figure, pictures, texts, total)
        return drawings

    def _write_numbers(self, folder: Path, record: NumberRecord) -> dict[str, NDArray[np.uint8]]:
        if not record.rows:
            return {}
        self.examples, self.targets = record.rows, folder / "targets.csv"
        self.target_table = record.table()
        _write_table(self.targets, self.target_table, lambda v: f"{v:.6g}")
        if record.invalid.any():
            parts = [f"{n:,} of {name}" for n, name in zip(record.invalid, record.names, strict=True) if n]
            more = f" and {len(parts) - 8} other targets" if len(parts) > 8 else ""
            rank_zero_warn(
                f"test_step returned NaN or infinite numbers in {', '.join(parts[:8])}{more} ({record.rows:,} rows); "
                "the scores of these targets are NaN, and the pictures leave these rows out"
            )
        sample = np.stack(record.sample.rows)
        drawings = {"predicted": drawn(predicted_figure, sample, record.names, record.rows)}
        if record.persistence is not None:
            latest = np.stack(record.latest.rows[::-1])
            with np.errstate(invalid="ignore", over="ignore"):
                errors = [np.sqrt(moments.mean_square) for moments in (record.errors, record.persistence)]
            drawings["forecast"] = drawn(forecast_figure, latest, record.names, *errors, record.rows)
        return drawings

    def _log_pictures(self, trainer: L.Trainer, folder: Path, drawings: Mapping[str, NDArray[np.uint8]]) -> None:
        if not drawings:
            return
        writers, step, own = tensorboard_writers(trainer.loggers), trainer.global_step, None
        if not writers and self.tensorboard_step is not None:
            from torch.utils.tensorboard import SummaryWriter

            own = SummaryWriter(str(folder / "test"))  # not among the run's own event files, which resuming continues
            writers, step = [own], self.tensorboard_step
        for writer in writers:
            for name, picture in drawings.items():
                writer.add_image(f"test/{name}", picture, step, dataformats="HWC")
        if own is not None:
            own.close()

    def _write_answers(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        self.examples, self.answers = len(rows), folder / "answers.jsonl"
        with atomic_write(self.answers) as file:
            for row in sorted(rows, key=lambda row: row["id"]):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _merged(records: Sequence[Any]) -> Any:
    """One record of those of all ranks; None if no rank has one."""
    first, *others = [record for record in records if record is not None] or [None]
    for other in others:
        first.merge(other)
    return first


def _named(row: Mapping[str, Any], names: Sequence[Any]) -> dict[str, Any]:
    """A mistake with the names of its classes."""
    return {**row, "true": names[row["true"]], "predicted": names[row["predicted"]]}


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]], number: Any) -> None:
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: number(v) if isinstance(v, float) else v for name, v in row.items()})


def _told(targets: int, with_persistence: bool) -> str:
    return f"{targets} numbers for each row {'with' if with_persistence else 'without'} persistence"


def _picture(image: torch.Tensor, make: Any) -> NDArray[np.floating]:
    """A picture (H, W, 3) or (H, W) in [0, 1] of an image (C, H, W)."""
    if not callable(make):
        return as_picture(image.numpy())
    picture = torch.as_tensor(make(image[None])).detach().cpu().float().numpy()
    if picture.ndim != 4 or len(picture) != 1 or picture.shape[3] not in (1, 3):
        raise ValueError(
            f"The data module's pictures() made {picture.shape} of inputs {(1, *image.shape)}; it must return pictures "
            "(B, H, W, C) with 1 or 3 channels"
        )
    return picture[0, :, :, 0] if picture.shape[3] == 1 else picture[0]


def _above(row: Mapping[str, Any]) -> str:
    def cut(name: Any) -> str:
        return str(name) if len(str(name)) <= 24 else f"{str(name)[:21]}..."

    where = "" if row["id"] is None else f", row {cut(row['id'])}"
    return f"true: {cut(row['true'])}\npredicted: {cut(row['predicted'])}\nprobability {row['probability']:.3g}{where}"
