"""Table: rows of numbers and categories, with classes or numbers to predict.

Shapes: B batch, D inputs, K targets, N rows, F columns.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_qsgd.datamodules.arrays import (
    ArrayDataModule,
    Rows,
    Scale,
    as_inputs,
    check_choice,
    digest_of,
    scaling_of,
)
from lightning_qsgd.datamodules.duplicates import equal_rows, look_alikes, stratified
from lightning_qsgd.datamodules.frames import (
    SETS,
    Frame,
    check_labels,
    holds_numbers,
    is_missing,
    missing_rows,
    name_of,
    numbers,
    read_frame,
    read_set,
    sorted_names,
)
from lightning_qsgd.datamodules.loading import check_at_least
from lightning_qsgd.datamodules.rows import first_three

Missing = Literal["refuse", "mean", "median", "most_frequent"]


class Table(ArrayDataModule):
    """Rows of numbers and categories from a file, to predict a class or numbers.

    A file is CSV with a header, JSON (``.jsonl``, ``.ndjson``, ``.json``: one object per line, or an array of objects),
    Parquet (``.parquet``, ``.pq``) or a NumPy archive (``.npz``). Arrays (N,) of an archive are columns; an array X
    (N, D) holds columns x0, x1, ... Without ``val_file``, a share of the training rows is set aside, stratified by
    class; likewise for ``test_file``. Everything that is learned from data, such as scaling, is learned from the
    training rows only and saved in checkpoints.

    A column whose values are all numbers is one input. A column of texts holds categories and becomes one input for
    each, which is 1 for rows with that category and otherwise 0, whatever ``scale`` is. Columns are refused if it is
    unclear which they are: numbers with exceptions such as "N/A", and texts such as "1,234", "12 %", "007" and dates.

    Batches are dicts of ``inputs`` (B, D) float32, ``id`` (B,) int64, the number of the row in its file from 0, and,
    except for predict, ``labels`` (B,) int64 or ``targets`` (B, K) float32, which have mean 0 and standard deviation 1
    over the training rows.

    Args:
        train_file: file of training rows. Required for fit, unless ``dataset`` is given.
        val_file: file of validation rows. Default: None, ``val_share`` of the training rows.
        test_file: file of test rows. Default: None, ``test_share`` of the training rows.
        predict_file: file of rows to predict; it needs no label or target. Default: None, the test rows.
        dataset: instead of ``train_file``, a set that comes with scikit-learn: "breast_cancer", "wine", "iris" and
            "digits" (label column "class"), "diabetes" (target column "progression") or "linnerud" (target columns
            "weight", "waist" and "pulse"). Default: None.
        label_column: column of classes to predict: texts, whole numbers, or true and false. Default: None, or the
            set's.
        target_columns: columns of numbers to predict, instead of a label. Default: None, or the set's.
        columns: columns that are inputs, in this order. Other files need the same ones, in any order. Default: None,
            all columns of the training file except labels and targets.
        categories: columns of numbers, or of unclear texts, that are categories. Default: none.
        missing: what to do about empty cells, null and NaN in inputs. "refuse" is an error that names their lines;
            "mean", "median" and "most_frequent" fill in a statistic of the training rows, and for categories always the
            most frequent one. Labels and targets are never filled in. Default: "refuse".
        scale: how columns of numbers are scaled, by the training rows. "standard": to mean 0 and standard deviation 1.
            "minmax": to -1 for the least value and 1 for the greatest; other rows may lie outside. "none": not at all.
            Rotations repeat after 2 pi: for an angle encoding without a layer before it, use "minmax", which keeps
            training rows within one period; values of "standard" above pi look like others below. Default: "standard".
        pca: number of principal components that replace the scaled inputs, at least 1. The components are scaled as
            ``scale`` says, too. Default: None, no components.
        val_share, test_share: shares of the training rows to set aside if there is no file, in (0, 1). Default: 0.1.
        split_seed: seed of that split, at least 0. Default: 0.
        group_equal_rows: whether rows with equal inputs stay in one split when shares are set aside. The shares then
            differ from the given ones by at most half of a group of equal rows. Default: False.
        batch_size: rows per batch and process, at least 1; four times as many in evaluation. Default: 32.
        num_workers: processes that load batches, at least 0. Default: 0.

    Attributes:
        predicts: "classes" or "numbers".
        input_shape: (D,), known after ``setup``.
        labels, class_counts: class names, sorted, and the number of training rows of each, known after ``setup``.
        target_names, target_mean, target_scale: for each target its name, and mean and standard deviation over the
            training rows, known after ``setup``. A target is mean + scale * (its value in ``targets``).

    Raises:
        ValueError: for an invalid argument; for a missing column, an unknown category or label, or a value that is
            missing, infinite or no number, with file and lines.
        ImportError: for a Parquet file without pyarrow (extra ``data``).
        FileNotFoundError: for a missing file.
    """

    saved = ("column_names", "category_names", "filled", "shift", "factor", "components", "offset")

    def __init__(
        self,
        train_file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        predict_file: str | None = None,
        dataset: str | None = None,
        label_column: str | None = None,
        target_columns: list[str] | None = None,
        columns: list[str] | None = None,
        categories: list[str] | None = None,
        missing: Missing = "refuse",
        scale: Scale = "standard",
        pca: int | None = None,
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        group_equal_rows: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        sources = {"train": train_file or dataset, "val": val_file, "test": test_file, "predict": predict_file}
        super().__init__(sources, "file", val_share, test_share, split_seed, batch_size, num_workers)
        check_choice("missing", missing, Missing)
        check_choice("scale", scale, Scale)
        if pca is not None:
            check_at_least(locals(), pca=1)
        if dataset is not None and train_file is not None:
            raise ValueError(f"Invalid dataset: {dataset}; train_file is {train_file}: give one of the two")
        if dataset is not None and dataset not in SETS:
            raise ValueError(f"Invalid dataset: {dataset}; use one of {', '.join(SETS)}, or a file (train_file)")
        if dataset is not None and label_column is None and target_columns is None:
            default = SETS[dataset]
            label_column, target_columns = (default, None) if isinstance(default, str) else (None, default)
        if label_column is not None and target_columns is not None:
            raise ValueError(
                f"Invalid label_column: {label_column}; target_columns are {target_columns}: give label_column for "
                "classes, or target_columns for numbers, and null for the other"
            )
        if label_column is None and not target_columns:
            raise ValueError(
                "Invalid label_column: None; give label_column to predict classes, or target_columns to predict numbers"
            )
        self._answers = [label_column] if label_column is not None else list(target_columns or ())
        for name, given in {"target_columns": self._answers, "columns": columns, "categories": categories}.items():
            if twice := [column for column in given or () if (given or []).count(column) > 1]:
                raise ValueError(f"Invalid {name}: {given}; {twice[0]!r} is given twice")
        if columns is not None and (not columns or set(columns) & set(self._answers)):
            raise ValueError(f"Invalid columns: {columns}; give at least one column, and none of {self._answers}")
        self.predicts = "classes" if label_column is not None else "numbers"
        self.dataset, self.columns, self.categories = dataset, columns, list(categories or ())
        self.missing, self.scale, self.pca, self.group_equal_rows = missing, scale, pca, group_equal_rows
        self._frames: dict[str, Frame] = {}
        self.column_names: list[str] = []
        self.category_names: dict[str, list[str]] = {}
        self.filled: list[float] = []
        self.shift: list[float] = []
        self.factor: list[float] = []
        self.components: list[list[float]] = []
        self.offset: list[float] = []

    def _arguments(self) -> dict[str, Any]:
        given = {"columns": self.columns} if self.columns else {}
        given |= {"target_columns": self._answers} if self.predicts == "numbers" else {}
        return {"scale": self.scale, "pca": self.pca} | given

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what was learned from the training rows of a checkpoint; its targets replace other ones."""
        super().load_state_dict(state_dict)
        self._answers = list(self.target_names) or self._answers

    # ---- learn from the training rows

    def _learn(self) -> None:
        """Learn columns, categories, classes and scaling from the training rows."""
        self._source_of("train")
        self._frames.clear()
        self.__dict__.pop("_parts", None)
        frame = self._frame("train")
        self._learn_columns(frame)
        values = self._values(frame)
        train = self._parts["train"]
        self._learn_filling(frame, values, train)
        self.shift, self.factor, self.components, self.offset = [], [], [], []
        rows = self._one_hot(self._filled(frame, values, "train")[train])  # (N, D)
        shift, factor = scaling_of(rows, self.scale)
        one_hot = [name in self.category_names for name in self.column_names for _ in self._inputs_of(name)]
        shift[one_hot], factor[one_hot] = 0, 1
        self.shift, self.factor = shift.tolist(), factor.tolist()
        if self.pca is not None:
            self._learn_components((rows - shift) * factor)
        num_inputs = len(self.components) or len(shift)
        self.input_shape = (num_inputs,)
        if self.predicts == "numbers":
            targets = self._targets(frame)[train]
            mean, factor = scaling_of(targets, "standard")
            if constant := [name for name, one in zip(self._answers, factor, strict=True) if one == 0]:
                raise ValueError(f"Invalid target_columns: {constant}; all training rows have one value")
            self.target_names, self.target_mean = list(self._answers), mean.tolist()
            self.target_scale = (1 / factor).tolist()
        self._tell(rows)

    def _learn_columns(self, frame: Frame) -> None:
        frame.check_columns(self._answers, "label_column" if self.predicts == "classes" else "target_columns")
        names = self.columns or [name for name in frame.columns if name not in self._answers]
        frame.check_columns(names, "columns")
        if not names:
            raise ValueError(f"{frame.name}: there are no input columns")
        if wrong := [name for name in self.categories if name not in names]:
            raise ValueError(f"Invalid categories: {wrong}; they are not among the input columns: {first_three(names)}")
        self.column_names, self.category_names = list(names), {}
        for name in names:
            if name in self.categories or not holds_numbers(frame, name):
                places: dict[str, list[int]] = {}
                for i, value in enumerate(frame.columns[name]):
                    if not is_missing(value):
                        places.setdefault(name_of(value), []).append(frame.lines[i] if frame.lines else i)
                self.category_names[name] = sorted_names(places)
                if alike := look_alikes(places):
                    rank_zero_warn(f"{frame.name}: categories of {name!r} that look alike are different ones: {alike}")
            elif len(frame) > 2 and _counts_rows(numbers(frame, name, "")):
                rank_zero_warn(
                    f"{frame.name}: column {name!r} numbers the rows; if it is no measurement, leave it out (columns)"
                )

    def _learn_filling(self, frame: Frame, values: np.ndarray, train: Sequence[int]) -> None:
        from sklearn.impute import SimpleImputer

        self.filled = []
        empty = [name for i, name in enumerate(self.column_names) if np.isnan(values[train, i]).all()]
        if empty:
            raise ValueError(f"{frame.name}: column {empty[0]!r} has no values; leave it out (columns)")
        if self.missing == "refuse":
            return
        for i, name in enumerate(self.column_names):
            strategy = "most_frequent" if name in self.category_names else self.missing
            fitted = SimpleImputer(strategy=strategy).fit(values[train, i : i + 1])
            self.filled.append(float(np.asarray(fitted.statistics_)[0]))
        if count := int(np.isnan(values).sum()):
            where = [name for i, name in enumerate(self.column_names) if np.isnan(values[:, i]).any()]
            rank_zero_info(f"{frame.name}: {count} missing values are filled in, in {first_three(where)}")

    def _learn_components(self, rows: np.ndarray) -> None:
        from sklearn.decomposition import PCA

        assert self.pca is not None
        if self.pca > min(rows.shape):
            raise ValueError(
                f"Invalid pca: {self.pca}; {rows.shape[0]} training rows of {rows.shape[1]} inputs have at most "
                f"{min(rows.shape)} components"
            )
        fitted = PCA(self.pca, svd_solver="full").fit(rows)
        least = np.finfo(np.float64).eps * max(rows.shape) * fitted.singular_values_[0]  # as numpy's matrix_rank
        if (rank := int((fitted.singular_values_ > least).sum())) < self.pca:
            way = f"use at most {rank}" if rank else "leave it out"
            raise ValueError(
                f"Invalid pca: {self.pca}; the training rows vary in {rank} directions only, because inputs are "
                f"constant or sums of others, as the categories of a column are: {way}"
            )
        shift, factor = scaling_of(fitted.transform(rows), self.scale)
        components = fitted.components_ * factor[:, None]
        self.components = components.tolist()
        self.offset = (-components @ fitted.mean_ - shift * factor).tolist()
        share = fitted.explained_variance_ratio_.sum()
        rank_zero_info(f"{self.pca} principal components hold {share:.1%} of the variance of {len(self.shift)} inputs")

    def _tell(self, rows: np.ndarray) -> None:
        """Print the sizes of the splits, and warn about data that make scores unreliable."""
        names, pairs, sizes = {}, {}, []
        for split in ("train", "val", "test"):
            frame, part = self._rows_of(split)
            names[split] = self._labels(frame, part) if self.predicts == "classes" else [""] * len(part)
            keys = (row.tobytes() for row in self._values(frame)[part])
            pairs[split] = list(zip(keys, names[split], strict=True))
            sizes.append(len(part))
        answers = f"targets {first_three(self.target_names)}"
        if self.predicts == "classes":
            frame, part = self._rows_of("train")
            self._learn_classes(names, [frame.lines[i] if frame.lines else i for i in part])
            answers = f"{len(self.labels)} classes"
        rank_zero_info(
            "{} rows to train, {} to validate, {} to test; ".format(*sizes)
            + f"{answers}, {len(self.column_names)} columns, {len(self.components) or len(self.shift)} inputs"
        )
        inputs = [name for column in self.column_names for name in self._inputs_of(column)]
        constant = [name for name, column in zip(inputs, rows.T, strict=True) if (column == column[0]).all()]
        if constant:
            zero = "" if self.scale == "none" else "; as inputs they are 0"
            rank_zero_warn(
                f"Columns with one value in all training rows: {first_three(constant)}{zero}; leave them out"
            )
        way = "--data.group_equal_rows true keeps them together in shares of one file; remove them from other files"
        if self.group_equal_rows or not self._aside():
            way = "Remove them from one of the files"
        if found := equal_rows(pairs, "label", way, "rows"):
            rank_zero_warn(found)

    # ---- read

    def _frame(self, source: str) -> Frame:
        if source not in self._frames:
            path = self.sources[source]
            assert path is not None
            self._frames[source] = read_set(path) if source == "train" and self.dataset else read_frame(path)
        return self._frames[source]

    def _training_name(self) -> str:
        """The training source, for errors."""
        return self._frame("train").name

    @cached_property
    def _parts(self) -> dict[str, list[int]]:
        """Row numbers of "train" and of the splits that are set aside from the training rows."""
        frame = self._frame("train")
        aside, everything = self._aside(), range(len(frame))
        keys = [row.tobytes() for row in self._values(frame)] if self.group_equal_rows else None
        labels = self._labels(frame, everything) if self.predicts == "classes" else [""] * len(frame)
        found = stratified(labels, keys, [*aside.values()], self.split_seed)
        parts = dict(zip([*aside, "train"], found, strict=True))
        different, why = len(set(labels)), ""
        if 2 * different > len(frame):
            why = f": {len(frame)} rows have {different} labels. Is {self._answers[0]!r} the right column? If so,"
        self._check_parts(parts, why)
        return parts

    def _rows_of(self, split: str) -> tuple[Frame, list[int]]:
        """The file of a split's rows, and their numbers in it."""
        source = self._source_of(split)
        frame = self._frame(source)
        return frame, self._part_of(split, source, len(frame))

    def _digest(self) -> str:
        """A digest of the training rows."""
        frame, part = self._rows_of("train")
        answers = [[name_of(frame.columns[name][i]) for i in part] for name in self._answers]
        return digest_of([self.column_names, answers, self._values(frame)[part]])

    def _read_split(self, split: str) -> Rows:
        """The rows of a split, scaled."""
        frame, part = self._rows_of(split)
        rows = self._one_hot(self._filled(frame, self._values(frame), split)[part])
        rows = (rows - np.array(self.shift)) * np.array(self.factor)
        if self.components:
            rows = rows @ np.array(self.components).T + np.array(self.offset)
        columns: dict[str, torch.Tensor | list[Any]] = {"inputs": as_inputs(rows, frame.name), "id": torch.tensor(part)}
        if split != "predict":
            frame.check_columns(self._answers, "label_column" if self.predicts == "classes" else "target_columns")
        if split != "predict" and self.predicts == "classes":
            columns["labels"] = self._class_ids(
                self._labels(frame, part), lambda rows: frame.at([part[row] for row in rows])
            )
        elif split != "predict":
            targets = (self._targets(frame)[part] - np.array(self.target_mean)) / np.array(self.target_scale)
            columns["targets"] = as_inputs(targets, frame.name)
        return Rows(columns)

    def _labels(self, frame: Frame, part: Sequence[int]) -> list[str]:
        """Class names of some rows; all rows of the file are checked."""
        (column,) = self._answers
        frame.check_columns([column], "label_column")
        check_labels(frame, column)
        return [name_of(frame.columns[column][i]) for i in part]

    def _targets(self, frame: Frame) -> np.ndarray:
        """Targets of all rows, (N, K), in their own units."""
        for column in self._answers:
            if rows := missing_rows(frame, column):
                raise ValueError(f"{frame.at(rows)}: target {column!r} is missing; remove these rows")
        what = "targets are numbers such as 1234.5; for classes use label_column"
        return np.stack([numbers(frame, column, what) for column in self._answers], 1)

    def _values(self, frame: Frame) -> np.ndarray:
        """The input columns of all rows, (N, F): numbers, and numbers of categories; NaN for missing values.

        Raises:
            ValueError: for missing columns, unknown categories and values that are no numbers.
        """
        frame.check_columns(self.column_names, "an input of the model")
        found = []
        for name in self.column_names:
            if name not in self.category_names:
                found.append(numbers(frame, name, f"write numbers, or list {name!r} in categories and fit again"))
                continue
            known: dict[str, float] = {category: i for i, category in enumerate(self.category_names[name])}
            values = [None if is_missing(value) else name_of(value) for value in frame.columns[name]]
            if unknown := [i for i, value in enumerate(values) if value is not None and value not in known]:
                raise ValueError(
                    f"{frame.at(unknown)}: {values[unknown[0]]!r} is not a category of {name!r} in the training file: "
                    f"{first_three(known)}; correct it, or add rows with it to the training file"
                )
            found.append(np.array([np.nan if value is None else known[value] for value in values]))
        return np.stack(found, 1)

    def _filled(self, frame: Frame, values: np.ndarray, split: str) -> np.ndarray:
        """The values with missing ones filled in.

        Raises:
            ValueError: for missing values that are to be refused, with their lines.
        """
        empty = {name: np.flatnonzero(np.isnan(values[:, i])).tolist() for i, name in enumerate(self.column_names)}
        empty = {name: rows for name, rows in empty.items() if rows}
        if not empty or (self.missing != "refuse" and self.filled):
            return np.where(np.isnan(values), np.array(self.filled or [0.0]), values)
        shown = first_three(
            f"{name!r} ({frame.at(rows).removeprefix(frame.name + ', ')})" for name, rows in empty.items()
        )
        way = "or set missing: mean, median or most_frequent"
        if self.missing != "refuse":
            way = "because missing was 'refuse' when the checkpoint was trained"
        raise ValueError(f"{frame.name}: values are missing in {shown}; fill them in, {way}")

    def _one_hot(self, values: np.ndarray) -> np.ndarray:
        """Inputs (N, D) before scaling: a column of categories becomes one column of 0 and 1 for each category."""
        found = []
        for i, name in enumerate(self.column_names):
            column = values[:, i : i + 1]
            size = len(self.category_names.get(name, ()))
            found.append((column == np.arange(size)).astype(np.float64) if size else column)
        return np.concatenate(found, 1)

    def _inputs_of(self, column: str) -> list[str]:
        """Names of a column's inputs, before components."""
        return (
            [f"{column}={name}" for name in self.category_names[column]] if column in self.category_names else [column]
        )


def _counts_rows(values: np.ndarray) -> bool:
    return bool(np.isfinite(values[0])) and np.array_equal(values, values[0] + np.arange(len(values)))
