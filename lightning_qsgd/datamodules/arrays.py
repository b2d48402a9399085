"""What data modules share whose rows are arrays in memory: splits by files or shares, loaders, and a saved state."""

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NoReturn, get_args

import lightning as L
import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_qsgd.datamodules.duplicates import look_alikes
from lightning_qsgd.datamodules.frames import sorted_names
from lightning_qsgd.datamodules.loading import check_at_least, evaluation_loader, train_loader
from lightning_qsgd.datamodules.rows import first_three

Scale = Literal["standard", "minmax", "none"]
_SAVED = ("labels", "class_counts", "target_names", "target_mean", "target_scale", "training_rows", "learned_with")


class Rows(Dataset[dict[str, Any]]):
    """Rows of a split. A loader takes a batch by one indexing of each column, which is much faster than row by row.

    Args:
        columns: a tensor (N, ...) or list of N values for each entry of a batch. At least one.
        prepare: computes a batch's final entries from the indexed ones. Default: None, the entries themselves.
    """

    def __init__(
        self,
        columns: Mapping[str, Tensor | list[Any]],
        prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.columns, self._prepare = dict(columns), prepare

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:  # called by torch's loaders, for a whole batch
        places = torch.as_tensor(indices)
        batch = {
            name: values[places] if isinstance(values, Tensor) else [values[i] for i in indices]
            for name, values in self.columns.items()
        }
        return self._prepare(batch) if self._prepare else batch


def as_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """The collate function of loaders of :class:`Rows`, which are batches already."""
    return batch


class ArrayDataModule(L.LightningDataModule):
    """Base of data modules whose rows are arrays in memory.

    A subclass sets ``saved`` and ``predicts``, calls ``__init__`` with its sources, and implements ``_learn``,
    ``_parts``, ``_digest`` and ``_read_split``.

    Args:
        sources: file or folder of "train", "val", "test" and "predict", or None.
        word: what a source is called in arguments: "file" or "folder".
        val_share, test_share: shares of the training rows to set aside if there is no source, in (0, 1).
        split_seed: seed of that split, at least 0.
        batch_size: rows per batch and process, at least 1. Evaluation uses four times as many.
        num_workers: processes that load batches, at least 0.

    Attributes:
        saved: names of a subclass's attributes that checkpoints hold: numbers, texts, and lists and dicts of these.
        predicts: "classes" or "numbers".
        input_shape: shape of one row of inputs; None before ``setup``.
        labels, class_counts: class names and their numbers of training rows; empty for numbers.
        target_names, target_mean, target_scale: of each of K numbers; empty for classes. A number is
            mean + scale * (its standardized value in ``targets``).
    """

    saved: tuple[str, ...] = ()
    predicts: Literal["classes", "numbers"] = "classes"

    def __init__(
        self,
        sources: Mapping[str, str | None],
        word: str,
        val_share: float,
        test_share: float,
        split_seed: int,
        batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        check_at_least(locals(), split_seed=0, batch_size=1, num_workers=0)
        self.shares = {"val": val_share, "test": test_share}
        for name, share in self.shares.items():
            if not 0 < share < 1:
                raise ValueError(f"Invalid {name}_share: {share}; it must be in (0, 1)")
        self.sources, self.word, self.split_seed = dict(sources), word, split_seed
        if (given := self._aside()) and sum(given.values()) >= 1:
            first, *others = given
            too = f", with {others[0]}_share {given[others[0]]}" if others else ""
            raise ValueError(f"Invalid {first}_share: {given[first]}{too}, leaves no {word} rows to train; lower them")
        self.batch_size, self.num_workers = batch_size, num_workers
        self.input_shape: tuple[int, ...] | None = None
        self.labels: list[str] = []
        self.class_counts: list[int] = []
        self.target_names: list[str] = []
        self.target_mean: list[float] = []
        self.target_scale: list[float] = []
        self.training_rows = ""  # a digest of them
        self.learned_with: dict[str, Any] = {}
        self._known: dict[str, Rows] = {}

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None before ``setup``, and for numbers."""
        return len(self.labels) or None

    @property
    def num_targets(self) -> int | None:
        """Number of targets K; None before ``setup``, and for classes."""
        return len(self.target_names) or None

    # ---- what a subclass implements

    @abstractmethod
    def _learn(self) -> None:
        """Set the attributes in ``saved`` from the training rows. It is called before fit."""

    @cached_property
    @abstractmethod
    def _parts(self) -> dict[str, list[int]]:
        """Row numbers of "train" and of the splits that are set aside from the training source."""

    @abstractmethod
    def _digest(self) -> str:
        """A digest of the training rows, by :func:`digest_of`."""

    @abstractmethod
    def _read_split(self, split: str) -> Rows:
        """The rows of a split, scaled. A split without a source is a part of the training source; predict is then test.

        Entries: ``inputs``, ``id``, and ``labels`` or ``targets`` except for predict.
        """

    def _arguments(self) -> dict[str, Any]:
        """Arguments that decide how inputs are computed, by name. Those of a checkpoint win, with a warning."""
        return {}

    # ---- what it calls

    def _aside(self) -> dict[str, float]:
        """The shares of the training source for those of "val" and "test" that have no source."""
        return {split: share for split, share in self.shares.items() if not self.sources[split]}

    def _check_parts(self, parts: Mapping[str, Sequence[int]], why: str = "") -> None:
        """Check that no part of the training source is empty.

        Raises:
            ValueError: otherwise; ``why`` comes between what is wrong and the way out.
        """
        for split in parts:
            if not parts[split]:
                small = "to leave rows to train" if split == "train" else f"to set {split} aside"
                way = f"val_{self.word} and test_{self.word}" if split == "train" else f"{split}_{self.word}"
                raise ValueError(
                    f"{self._training_name()} is too small {small}{why or ';'} set {way}, or other shares (val_share, "
                    "test_share)"
                )

    def _training_name(self) -> str:
        """The training source, for errors."""
        return str(self.sources["train"])

    def _learn_classes(self, names: Mapping[str, Sequence[str]], lines: Sequence[int]) -> None:
        """Set ``labels`` and ``class_counts``; warn about classes without rows, and about names that look alike.

        Args:
            names: the class of each row of "train", "val" and "test".
            lines: the line, or another number, of each training row, for the warning.
        """
        counts = {split: Counter(found) for split, found in names.items()}
        self.labels = sorted_names(counts["train"])
        self.class_counts = [counts["train"][label] for label in self.labels]
        if len(self.labels) < 2:
            raise ValueError(f"{self._training_name()} has {len(self.labels)} class {self.labels}; two are needed")
        absent = [
            "{} ({} to train, {} to validate, {} to test)".format(label, *(count[label] for count in counts.values()))
            for label in self.labels
            if not all(count[label] for count in counts.values())
        ]
        if absent:
            rank_zero_warn(
                f"Classes without rows to validate or test: {first_three(absent)}; raise val_share and test_share, or "
                f"set val_{self.word} and test_{self.word}"
            )
        places: dict[str, list[int]] = {}
        for name, line in zip(names["train"], lines, strict=True):
            places.setdefault(name, []).append(line)
        if alike := look_alikes(places):
            rank_zero_warn(f"{self._training_name()}: labels that look alike are different classes: {alike}")

    def _class_ids(self, names: Sequence[str], at: Callable[[list[int]], str]) -> Tensor:
        """Numbers of the classes (N,) int64.

        Args:
            names: class of each row.
            at: says where rows are, for the error.

        Raises:
            ValueError: for a class that the training rows do not have.
        """
        known = {label: i for i, label in enumerate(self.labels)}
        if unknown := [i for i, name in enumerate(names) if name not in known]:
            raise ValueError(
                f"{at(unknown)}: label {names[unknown[0]]!r} is not a label of the training data: "
                f"{first_three(self.labels)}"
            )
        return torch.tensor([known[name] for name in names])

    # ---- what it gets

    def setup(self, stage: str) -> None:
        """Before fit, learn classes and scaling from the training rows. Otherwise a checkpoint brings them."""
        if stage == "fit":
            self._known.clear()
            self._learn()
            self.training_rows, self.learned_with = self._digest(), {"predicts": self.predicts} | self._arguments()
            for split in ("train", "val", "test"):  # what is wrong with test data is said before training, too
                self._known[split] = self._read_split(split)

    def rows(self, split: str) -> Rows:
        """The rows of a split: "train", "val", "test" or "predict", in order, as batches hold them."""
        if self.input_shape is None:
            raise ValueError("The scaling is unknown: run fit, or load a checkpoint of this module (--ckpt_path)")
        if split not in self._known:
            self._check_training_rows(split)
            self._known[split] = self._read_split(split)
        return self._known[split]

    def _source_of(self, split: str) -> str:
        """The split whose source has the rows of ``split``: itself, "test" for predict, or "train".

        Raises:
            ValueError: if there is none.
        """
        if self.sources[split]:
            return split
        if split == "predict" and (self.sources["test"] or self.sources["train"]):
            return self._source_of("test")
        if self.sources["train"]:
            return "train"
        self._no_source(split)

    def _part_of(self, split: str, source: str, size: int) -> list[int]:
        """The numbers of a split's rows in its source, which is :meth:`_source_of` and has ``size`` rows."""
        return [*range(size)] if source != "train" else self._parts["test" if split == "predict" else split]

    def _no_source(self, split: str) -> NoReturn:
        name = f"{split}_{self.word}"
        or_else = f" (or train_{self.word}, of which a share is set aside)" if split in ("val", "test") else ""
        raise ValueError(f"No data for {split}: set {name}{or_else}, for example --data.{name}=data/{split}")

    def _check_training_rows(self, split: str) -> None:
        """Warn if training rows are not the checkpoint's, or if rows that are now set aside may be among these."""
        if split == "train" and self.sources["train"] and self._digest() != self.training_rows:
            rank_zero_warn(
                f"The training rows of {self._training_name()} are not those that the checkpoint was trained with; "
                "they are scaled as those were. Restore the file and the arguments of its split, or start a new run"
            )
        if split != "train" and self._source_of(split) == "train" and self._digest() != self.training_rows:
            rank_zero_warn(
                f"The {split} rows are a share of {self._training_name()}, whose training rows differ from those of "
                f"the checkpoint: the model may have been trained with some of these {split} rows. Restore the file "
                f"and the arguments of its split, or set {split}_{self.word}"
            )

    def train_dataloader(self) -> DataLoader:
        """Batches of the training rows, in an order that depends on seed and epoch only."""
        return train_loader(self.rows("train"), self.batch_size, self.trainer, **self._options())

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation rows, in order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of the test rows, in order."""
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader:
        """Batches of the rows to predict, in order."""
        return self._in_order("predict")

    def _in_order(self, split: str) -> DataLoader:
        return evaluation_loader(self.rows(split), 4 * self.batch_size, self.trainer, **self._options())

    def _options(self) -> dict[str, Any]:
        return {"collate_fn": as_batch, "num_workers": self.num_workers}

    def state_dict(self) -> dict[str, Any]:
        """What was learned from the training rows, to save in a checkpoint."""
        state = {name: getattr(self, name) for name in (*_SAVED, *self.saved)}
        return state | {"input_shape": list(self.input_shape or ())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what was learned from the training rows of a checkpoint.

        Raises:
            ValueError: if the checkpoint predicts classes and this module numbers, or the reverse.
        """
        before = state_dict["learned_with"]
        if before.get("predicts", self.predicts) != self.predicts:
            raise ValueError(
                f"The checkpoint predicts {before['predicts']}, and the arguments ask for {self.predicts}; give the "
                "arguments of its run"
            )
        for name, now in self._arguments().items():
            if now != before.get(name, now):
                rank_zero_warn(
                    f"{name}: {now} is not applied, because the model was trained with {name}: {before[name]}"
                )
        for name, value in state_dict.items():
            setattr(self, name, value)
        self.input_shape = tuple(state_dict["input_shape"]) or None
        self._known.clear()  # they are scaled otherwise


def check_choice(name: str, value: str, choices: Any) -> None:
    """Check that a value is one of a ``Literal``.

    Raises:
        ValueError: otherwise, with the choices.
    """
    if value not in get_args(choices):
        raise ValueError(f"Invalid {name}: {value}; use one of {', '.join(get_args(choices))}")


def digest_of(parts: Iterable[Any]) -> str:
    """A digest of arrays and other values, equal for equal ones in every process."""
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()


def scaling_of(rows: np.ndarray, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Shift and factor of each column, such that (x - shift) * factor is scaled.

    Args:
        rows: training rows (N, D), float64.
        scale: "standard" (mean 0, standard deviation 1), "minmax" (from -1 to 1) or "none".

    Returns:
        Two arrays (D,). The factor of a column with one value is 0 unless scale is "none".
    """
    from sklearn.preprocessing import StandardScaler

    if scale == "none":
        return np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    # scikit-learn 1.9 takes columns of a small spread (below 2e-15, or small against the mean) for constant ones, and
    # leaves them unscaled; large numbers overflow when squared. So it gets columns in [-1, 1].
    low, high = rows.min(0), rows.max(0)
    middle, half = low / 2 + high / 2, high / 2 - low / 2
    half = np.where(half == 0, 1.0, half)
    shift, factor = middle, 1 / half
    if scale == "standard":
        fitted = StandardScaler().fit((rows - middle) / half)
        shift, factor = middle + half * np.asarray(fitted.mean_), 1 / (half * np.asarray(fitted.scale_))
    return shift, np.where(low == high, 0.0, factor)


def as_inputs(rows: np.ndarray, where: str) -> Tensor:
    """Rows as float32.

    Raises:
        ValueError: if a value is outside of the range of float32.
    """
    with np.errstate(over="ignore"):
        found = rows.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{where}: values are outside of the range of float32 (3.4e38); scale them, or correct them")
    return torch.from_numpy(found)
