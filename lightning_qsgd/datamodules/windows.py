"""Windows: forecasts of series, split by time.

Shapes: B batch, N rows of the series, T rows of a window, F inputs, H steps of the forecast, K = H x targets.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_qsgd.datamodules.arrays import (
    ArrayDataModule,
    Rows,
    Scale,
    as_inputs,
    check_choice,
    digest_of,
    scaling_of,
)
from lightning_qsgd.datamodules.duplicates import equal_rows
from lightning_qsgd.datamodules.frames import Frame, missing_rows, numbers, read_frame
from lightning_qsgd.datamodules.loading import check_at_least
from lightning_qsgd.datamodules.rows import first_three
from lightning_qsgd.datamodules.times import check_times

Missing = Literal["refuse", "previous"]


class Windows(ArrayDataModule):
    """Windows of a series of numbers, to forecast its next steps.

    A file holds one row for each time, in order: CSV with a header, JSON (``.jsonl``, ``.ndjson``, ``.json``), Parquet
    (``.parquet``, ``.pq``) or a NumPy archive (``.npz``) of arrays (N,). A window is ``window`` rows one after another;
    its targets are the values of the next ``horizon`` rows. The first rows of the training file train, the next share
    validates, and the last share tests, unless there are files for these. A window lies in one part with all its
    targets, so that no part sees another; a warning counts windows that several files hold. Scaling is learned from the
    training part only and saved in checkpoints.

    Batches are dicts of ``inputs`` (B, T, F) float32, ``persistence`` (B, K) float32, the value of each target in the
    window's last row, as a forecast to beat, ``id`` (B,) int64, the number of the window's last row in its file from 0,
    a list ``time`` of what ``time_column`` holds there, if it is given, and, except for predict, ``targets`` (B, K)
    float32. Targets and persistence are standardized: targets have mean 0 and standard deviation 1 over the rows of the
    training part. Predict has the windows at the end of its rows, too, whose future is not known.

    Args:
        train_file: file of the series. Required for fit.
        val_file: file of a series to validate. Default: None, ``val_share`` of the training file.
        test_file: file of a series to test. Default: None, ``test_share`` of the training file.
        predict_file: file of a series to continue: all its windows, up to the one that ends in its last row. Default:
            None, the test rows.
        columns: columns that are inputs, of numbers. Default: None, all columns except ``time_column``.
        target_columns: columns to forecast. Default: None, the inputs.
        time_column: column of times, which must increase: numbers, or dates such as 2024-05-31, 2024-05 and
            2024-05-31T14:30. It is no input. Unequal steps are a warning; months and years count as equal. Default:
            None.
        window: rows of a window, T, at least 1. Default: 24.
        horizon: rows to forecast, H, at least 1. Default: 1.
        stride: rows between the beginnings of two windows of a part, at least 1. Default: 1.
        missing: what to do about empty cells, null and NaN. "refuse" is an error that names their lines. "previous"
            repeats the last value before in inputs, never a later one, and leaves out windows with a target that is
            missing. Default: "refuse".
        scale: how inputs are scaled, by the training part. "standard": to mean 0 and standard deviation 1. "minmax": to
            -1 for the least value and 1 for the greatest. "none": not at all. See :class:`Table`. Default: "standard".
        val_share, test_share: shares of the training file's rows to set aside if there is no file, in (0, 1). Default:
            0.1.
        batch_size: windows per batch and process, at least 1; four times as many in evaluation. Default: 32.
        num_workers: processes that load batches, at least 0. Default: 0.

    Attributes:
        predicts: "numbers".
        input_shape: (T, F), known after ``setup``.
        target_names: K names such as "load+1", "load+2", ...: all steps of the first target, then of the next. Known
            after ``setup``.
        target_mean, target_scale: mean and standard deviation of each over the training part, known after ``setup``. A
            target is mean + scale * (its value in ``targets``).

    Raises:
        ValueError: for an invalid argument; for a part that is too short, a missing column, times that do not increase,
            or a value that is missing, infinite or no number, with file and lines.
        ImportError: for a Parquet file without pyarrow (extra ``data``).
        FileNotFoundError: for a missing file.
    """

    predicts = "numbers"
    saved = ("column_names", "forecast_names", "shift", "factor")

    def __init__(
        self,
        train_file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        predict_file: str | None = None,
        columns: list[str] | None = None,
        target_columns: list[str] | None = None,
        time_column: str | None = None,
        window: int = 24,
        horizon: int = 1,
        stride: int = 1,
        missing: Missing = "refuse",
        scale: Scale = "standard",
        val_share: float = 0.1,
        test_share: float = 0.1,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        sources = {"train": train_file, "val": val_file, "test": test_file, "predict": predict_file}
        super().__init__(sources, "file", val_share, test_share, 0, batch_size, num_workers)
        check_at_least(locals(), window=1, horizon=1, stride=1)
        check_choice("missing", missing, Missing)
        check_choice("scale", scale, Scale)
        for name, given in {"columns": columns, "target_columns": target_columns}.items():
            if given is not None and (not given or len(set(given)) < len(given)):
                raise ValueError(f"Invalid {name}: {given}; give at least one column, and none twice")
            if given is not None and time_column in given:
                raise ValueError(f"Invalid {name}: {given}; {time_column!r} is the time_column, which is no input")
        self.columns, self.target_columns, self.time_column = columns, target_columns, time_column
        self.window, self.horizon, self.stride = window, horizon, stride
        self.missing, self.scale = missing, scale
        self.column_names: list[str] = []
        self.forecast_names: list[str] = []
        self.shift: list[float] = []
        self.factor: list[float] = []
        self._frames: dict[str, Frame] = {}

    def _arguments(self) -> dict[str, Any]:
        given = {"columns": self.columns, "target_columns": self.target_columns}
        return {"scale": self.scale} | {name: names for name, names in given.items() if names}

    # ---- learn from the training part

    def _learn(self) -> None:
        self._source_of("train")
        self._frames.clear()
        self.__dict__.pop("_parts", None)
        frame = self._frame("train")
        names = self.columns or [name for name in frame.columns if name != self.time_column]
        if not names:
            raise ValueError(f"{frame.name}: there is no column beside time_column")
        self.column_names, self.forecast_names = list(names), list(self.target_columns or names)
        rows = self._filled(frame, self._values(frame, self.column_names), self.column_names)[self._parts["train"]]
        shift, factor = scaling_of(rows, self.scale)
        self.shift, self.factor = shift.tolist(), factor.tolist()
        if constant := [name for name, column in zip(names, rows.T, strict=True) if (column == column[0]).all()]:
            zero = "" if self.scale == "none" else "; as inputs they are 0"
            rank_zero_warn(
                f"Columns with one value in the training part: {first_three(constant)}{zero}; leave them out"
            )
        if steady := [name for name, column in zip(names, rows.T, strict=True) if _increases_steadily(column)]:
            rank_zero_warn(
                f"{frame.name}: {steady[0]!r} increases by equal steps, as times do; if it holds times, set "
                f"time_column: {steady[0]}"
            )
        targets = self._values(frame, self.forecast_names)[self._parts["train"]]
        known = [column[~np.isnan(column)][:, None] for column in targets.T]
        if few := [name for name, column in zip(self.forecast_names, known, strict=True) if len(np.unique(column)) < 2]:
            raise ValueError(f"Invalid target_columns: {few}; the training part holds one value of them, or none")
        scalings = [scaling_of(column, "standard") for column in known]
        mean, scale = np.concatenate([shift for shift, _ in scalings]), 1 / np.concatenate([f for _, f in scalings])
        self.target_names = [f"{name}+{step + 1}" for name in self.forecast_names for step in range(self.horizon)]
        self.target_mean = np.repeat(mean, self.horizon).tolist()
        self.target_scale = np.repeat(scale, self.horizon).tolist()
        self.input_shape = (self.window, len(self.column_names))
        self.training_rows = self._digest()
        sizes = [len(self.rows(split)) for split in ("train", "val", "test")]
        rank_zero_info(
            "{} windows to train, {} to validate, {} to test; ".format(*sizes)
            + f"{self.window} x {len(self.column_names)} inputs to forecast {first_three(self.target_names)}"
        )
        if self.sources["val"] or self.sources["test"]:  # windows of one file share no row
            pairs = {split: [(key, "") for key in self._keys(split)] for split in ("train", "val", "test")}
            if found := equal_rows(pairs, "target", "Remove their rows from one of the files", "windows"):
                rank_zero_warn(found)

    def _keys(self, split: str) -> list[int]:
        """What identifies each window of a split with its targets: values, and the time if it is known."""
        frame, _ = self._rows_of(split)
        values = self._values(frame, list(dict.fromkeys([*self.column_names, *self.forecast_names])))
        columns = self.rows(split).columns
        ends: Any = columns["id"]
        times = columns.get("time", [None] * len(ends))
        parts = [values[end + 1 - self.window : end + 1 + self.horizon] for end in ends.tolist()]
        return [hash((time, part.tobytes())) for time, part in zip(times, parts, strict=True)]

    # ---- read

    def _frame(self, source: str) -> Frame:
        if source not in self._frames:
            path = self.sources[source]
            assert path is not None
            frame = read_frame(path)
            if self.time_column is not None:
                frame.check_columns([self.time_column], "time_column")
                check_times(frame, self.time_column)
            self._frames[source] = frame
        return self._frames[source]

    @cached_property
    def _parts(self) -> dict[str, list[int]]:
        total = len(self._frame("train"))
        aside = {split: round(share * total) for split, share in self._aside().items()}
        ends = np.cumsum([total - sum(aside.values()), *aside.values()]).tolist()
        starts = [0, *ends[:-1]]
        return {split: [*range(start, end)] for split, start, end in zip(["train", *aside], starts, ends, strict=True)}

    def _rows_of(self, split: str) -> tuple[Frame, list[int]]:
        """The file of a part's rows, and their numbers in it, which follow each other."""
        source = self._source_of(split)
        frame = self._frame(source)
        return frame, self._part_of(split, source, len(frame))

    def _digest(self) -> str:
        frame, part = self._rows_of("train")
        names = list(dict.fromkeys([*self.column_names, *self.forecast_names]))
        return digest_of([names, self._values(frame, names)[part]])

    def _values(self, frame: Frame, names: Sequence[str]) -> np.ndarray:
        """Columns of all rows (N, F), with NaN for missing values.

        Raises:
            ValueError: if they are to be refused, with their lines.
        """
        frame.check_columns(names, "a column of the series")
        way = "write numbers such as 1234.5 and leave missing values empty; name a column of times by time_column"
        found = [numbers(frame, name, way) for name in names]
        if self.missing == "refuse" and (empty := [name for name in names if missing_rows(frame, name)]):
            rows = missing_rows(frame, empty[0])
            raise ValueError(
                f"{frame.at(rows)}: {empty[0]!r} is missing; fill it in, or set missing: previous, which repeats the "
                "last value before"
            )
        return np.stack(found, 1)

    def _filled(self, frame: Frame, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Missing values replaced by the last ones before, in the whole file.

        Raises:
            ValueError: if there is none before.
        """
        rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
        filled = np.take_along_axis(values, np.maximum.accumulate(rows, 0), 0)
        if before := np.flatnonzero(np.isnan(filled).any(1)).tolist():
            column = names[int(np.flatnonzero(np.isnan(filled[before[0]]))[0])]
            raise ValueError(
                f"{frame.at(before)}: {column!r} has no value before that could be repeated; remove these rows"
            )
        return filled

    def _read_split(self, split: str) -> Rows:
        frame, part = self._rows_of(split)
        known = split != "predict"
        assert self.input_shape is not None
        window, horizon = self.input_shape[0], len(self.target_names) // len(self.forecast_names)
        for name, now, before in (("window", self.window, window), ("horizon", self.horizon, horizon)):
            if now != before:
                raise ValueError(
                    f"Invalid {name}: {now}; the checkpoint was trained with {before}: use {name}: {before}"
                )
        inputs = self._filled(frame, self._values(frame, self.column_names), self.column_names)
        inputs = (inputs - np.array(self.shift)) * np.array(self.factor)
        targets = self._values(frame, self.forecast_names)
        last = self._filled(frame, targets, self.forecast_names)
        needed = window + (horizon if known else 0)
        # Windows to predict are counted from the end, so that the last one is among them.
        starts = np.arange((len(part) - needed) % self.stride if not known else 0, len(part) - needed + 1, self.stride)
        starts = starts + part[0] if part else starts
        if known:
            future = starts[:, None] + window + np.arange(horizon)  # (windows, H)
            complete = ~np.isnan(targets[future]).any((1, 2)) if len(starts) else np.zeros(0, dtype=bool)
            if left_out := int((~complete).sum()):
                rank_zero_info(f"{left_out} of {len(starts)} {split} windows are left out: a target is missing")
            starts = starts[complete]
        if not len(starts):
            raise ValueError(
                f"{frame.name}: {len(part)} rows for {split} hold no window of {needed} rows (window {window}"
                f"{f' + horizon {horizon}' if known else ''}); lower window or horizon, or give {split} more rows by "
                f"{split}_file or other shares (val_share, test_share)"
            )
        mean, scale = np.array(self.target_mean)[::horizon], np.array(self.target_scale)[::horizon]
        columns: dict[str, Tensor | list[Any]] = {"id": torch.from_numpy(starts + window - 1)}
        if self.time_column is not None:
            columns["time"] = [_plain(frame.columns[self.time_column][i]) for i in (starts + window - 1).tolist()]
        values = as_inputs((last - mean) / scale, frame.name)
        return Rows(columns, partial(_with_windows, as_inputs(inputs, frame.name), values, window, horizon, known))


def _with_windows(
    inputs: Tensor, values: Tensor, window: int, horizon: int, known: bool, batch: dict[str, Any]
) -> dict[str, Any]:
    last = batch["id"]  # (B,)
    found = {"inputs": inputs[last[:, None] + torch.arange(1 - window, 1)]}  # (B, T, F)
    if known:
        future = values[last[:, None] + torch.arange(1, horizon + 1)]  # (B, H, targets)
        found["targets"] = future.transpose(1, 2).flatten(1)
    return found | {"persistence": values[last].repeat_interleave(horizon, 1)} | batch


def _increases_steadily(column: np.ndarray) -> bool:
    steps = np.diff(column)
    return len(steps) > 1 and bool(steps[0] > 0) and bool(np.allclose(steps, steps[0], rtol=1e-6, atol=0))


def _plain(value: Any) -> Any:
    """A time as CSV and JSON can hold it: a number or a text."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, (int, float, str)) else str(value)
