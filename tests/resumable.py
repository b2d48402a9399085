"""A module and data of a user's own, with everything that a resumed run could get wrong."""

import random

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchmetrics import MeanMetric

from lightning_qsgd.tasks import SequenceClassification


class Noted(SequenceClassification):
    """Logs means, sums and extremes over the epoch, and draws random numbers wherever it can."""

    def configure_model(self):
        super().configure_model()
        self.own_mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        noise = random.random() + float(np.random.rand()) + torch.rand(()).item()  # noqa: NPY002
        self.own_mean.update(loss.detach() + noise)
        self.log("epoch/mean", loss * noise, on_step=False, on_epoch=True, batch_size=len(batch["labels"]))
        self.log("epoch/both", loss, on_step=True, on_epoch=True)
        self.log("epoch/sum", loss, on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("epoch/max", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("epoch/metric", self.own_mean, on_step=False, on_epoch=True)
        if batch_idx == 0:
            self.log("epoch/first", noise, on_step=False, on_epoch=True)
        return loss

    def on_train_batch_end(self, *_):
        self.log("after", random.random())


class Noisy(Dataset):
    """Rows with random tokens in them, from each global generator and one of its own."""

    def __init__(self, size):
        self.size, self.rng = size, np.random.default_rng(7)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        tokens = torch.full((8,), index % 60)
        tokens[0], tokens[1] = random.randrange(60), np.random.randint(60)  # noqa: NPY002
        tokens[2], tokens[3] = torch.randint(60, ()), self.rng.integers(60)
        return {"tokens": tokens, "labels": torch.tensor(index % 4)}


class Stream(IterableDataset):
    """Noisy rows without a known number."""

    def __init__(self, size):
        self.rows = Noisy(size)

    def __iter__(self):
        return (self.rows[random.randrange(100)] for _ in range(len(self.rows)))


class OwnData(L.LightningDataModule):
    """A shuffling DataLoader: plain, with a generator of its own, that knows its place, or without a length."""

    num_classes, vocab_size = 4, 64

    def __init__(self, kind: str = "plain", size: int = 42, num_workers: int = 0):
        super().__init__()
        self.kind, self.size, self.num_workers = kind, size, num_workers

    def train_dataloader(self):
        if self.kind == "stream":
            return DataLoader(Stream(self.size), batch_size=4)
        data = Noisy(self.size)
        if self.kind == "stateful":
            return StatefulDataLoader(data, batch_size=4, shuffle=True, num_workers=self.num_workers)
        generator = torch.Generator().manual_seed(5) if self.kind == "generator" else None
        sampler = RandomSampler(data, generator=generator)
        return DataLoader(data, batch_size=4, sampler=sampler, num_workers=self.num_workers, generator=generator)

    def val_dataloader(self):
        return DataLoader([{"tokens": torch.arange(8) + i, "labels": torch.tensor(i % 4)} for i in range(12)], 4)
