"""SyntheticSequences: the default task, generated from a seed.

Like this module, your own data modules provide the attributes ``num_classes`` and ``vocab_size`` (known after
``setup``), and batches that are dicts of ``tokens`` (B, T) int64, optionally ``padding_mask`` (B, T) bool (True at
padding), and ``labels`` (B,) int64 (optional for predict).
"""

from typing import Literal, get_args

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_qsgd.datamodules.loading import check_at_least, evaluation_loader, train_loader

Kind = Literal["majority", "order"]
Arrays = tuple[NDArray[np.int64], NDArray[np.int64]]

VOCAB_SIZE, NUM_CLASSES, NUM_FILLERS, NUM_MARKERS = 64, 4, 16, 24
_SPLITS = ("train", "val", "test")


class SyntheticSequences(L.LightningDataModule):
    """Sequences of tokens in 4 classes, over a vocabulary of 64 ids; each seed gives another data set.

    The sizes were chosen with plain Adam only, to come near the accuracy that arXiv 2511.01918 reports for its
    unspecified synthetic task. This is tuning, not replication.

    Args:
        kind: "majority": 24 random positions hold markers of random classes, the others fillers. The label is the class
            with the most markers; there are no ties. The task is linear in token counts: logistic regression on a bag
            of tokens reaches 97 to 99 %, so that it cannot judge attention. "order": one token of group X and one of
            group Y are placed among fillers, and label = 2 * [X before Y] + [X in the upper half of its group]. This
            task needs attention. Default: "majority".
        train_size, val_size, test_size: sequences per split, at least 1. Defaults: 1600, 2000, 20000.
        length: tokens per sequence, T, at least 24. Default: 32.
        label_noise: share of labels in every split that are changed to another class, in [0, 1). Accuracy is then at
            most 1 - label_noise. Default: 0.01.
        batch_size: sequences per batch and process, at least 1. Default: 32.
        seed: seed of the data, at least 0. The order of training batches depends on the seed of ``seed_everything`` and
            on the epoch instead. Default: 0.
        num_workers: processes that load batches. Default: 0.

    Raises:
        ValueError: for an invalid value.
    """

    num_classes = NUM_CLASSES
    vocab_size = VOCAB_SIZE

    def __init__(
        self,
        kind: Kind = "majority",
        train_size: int = 1600,
        val_size: int = 2000,
        test_size: int = 20_000,
        length: int = 32,
        label_noise: float = 0.01,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"Invalid kind: {kind!r}; it must be one of {', '.join(get_args(Kind))}")
        check_at_least(locals(), train_size=1, val_size=1, test_size=1, length=NUM_MARKERS, batch_size=1, seed=0)
        if not 0 <= label_noise < 1:
            raise ValueError(f"Invalid label_noise: {label_noise}; it must be in [0, 1)")
        self.kind, self.length, self.label_noise = kind, length, label_noise
        self.sizes = dict(zip(_SPLITS, (train_size, val_size, test_size), strict=True))
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers

    def arrays(self, split: Literal["train", "val", "test"]) -> Arrays:
        """Generate a split: tokens (N, T) int64 and labels (N,) int64. Every call returns the same values."""
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, _SPLITS.index(split))))
        make = _majority if self.kind == "majority" else _order
        tokens, labels = make(rng, self.sizes[split], self.length)
        flipped = rng.random(len(labels)) < self.label_noise
        return tokens, (labels + flipped * rng.integers(1, NUM_CLASSES, len(labels))) % NUM_CLASSES

    def train_dataloader(self) -> DataLoader:
        """Batches of the training split, in an order that depends on seed and epoch only."""
        dataset = _Sequences(*self.arrays("train"))
        return train_loader(dataset, self.batch_size, self.trainer, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, in order."""
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader:
        """Batches of the test split, in order."""
        return self._in_order("test")

    def _in_order(self, split: Literal["val", "test"]) -> DataLoader:
        # Without gradients, larger batches need little memory.
        dataset = _Sequences(*self.arrays(split))
        return evaluation_loader(dataset, 8 * self.batch_size, self.trainer, num_workers=self.num_workers)


class _Sequences(Dataset[dict[str, Tensor]]):
    def __init__(self, tokens: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        self.tokens, self.labels = torch.from_numpy(tokens), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"tokens": self.tokens[index], "labels": self.labels[index]}


def _majority(rng: np.random.Generator, size: int, length: int) -> Arrays:
    tokens, labels = np.empty((0, length), np.int64), np.empty(0, np.int64)
    per_class = (VOCAB_SIZE - NUM_FILLERS) // NUM_CLASSES
    while len(labels) < size:
        draws = 2 * size
        batch = rng.integers(0, NUM_FILLERS, (draws, length))
        classes = rng.integers(0, NUM_CLASSES, (draws, NUM_MARKERS))
        markers = NUM_FILLERS + per_class * classes + rng.integers(0, per_class, classes.shape)
        positions = rng.permuted(np.tile(np.arange(length), (draws, 1)), axis=1)[:, :NUM_MARKERS]
        np.put_along_axis(batch, positions, markers, axis=1)
        counts = (classes[..., None] == np.arange(NUM_CLASSES)).sum(1)  # (draws, classes)
        ranked = np.sort(counts, axis=1)
        clear = ranked[:, -1] > ranked[:, -2]  # one class leads by at least 1
        tokens = np.concatenate([tokens, batch[clear]])
        labels = np.concatenate([labels, counts[clear].argmax(1)])
    return tokens[:size], labels[:size]


def _order(rng: np.random.Generator, size: int, length: int) -> Arrays:
    group = (VOCAB_SIZE - NUM_FILLERS) // 2  # X: ids 16 to 39, Y: 40 to 63
    tokens = rng.integers(0, NUM_FILLERS, (size, length))
    positions = rng.permuted(np.tile(np.arange(length), (size, 1)), axis=1)[:, :2]
    x = rng.integers(0, group, size)
    y = rng.integers(0, group, size)
    rows = np.arange(size)
    tokens[rows, positions[:, 0]] = NUM_FILLERS + x
    tokens[rows, positions[:, 1]] = NUM_FILLERS + group + y
    return tokens, 2 * (positions[:, 0] < positions[:, 1]) + (x >= group // 2)
