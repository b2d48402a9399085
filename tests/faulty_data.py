"""Data whose loading fails once a run has its first checkpoint."""

import os
import signal
from pathlib import Path
from typing import Literal

import torch

from lightning_qsgd.datamodules import SyntheticSequences
from lightning_qsgd.datamodules.loading import train_loader


class FaultyData(SyntheticSequences):
    """The synthetic data; loading row 40 of the training data goes wrong."""

    def __init__(self, root: str, fault: Literal["exit", "kill", "raise"], **arguments) -> None:
        super().__init__(**arguments)
        self.root, self.fault = root, fault

    def train_dataloader(self):
        dataset = Faulty(super().train_dataloader().dataset, self.root, self.fault)
        return train_loader(dataset, self.batch_size, self.trainer, num_workers=self.num_workers)


class Faulty(torch.utils.data.Dataset):
    def __init__(self, whole, root, fault):
        self.whole, self.root, self.fault = whole, root, fault

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        if index == 40 and any(Path(self.root).glob("*/version_*/checkpoints/last.ckpt")):
            assert torch.utils.data.get_worker_info() is not None
            if self.fault == "exit":
                os._exit(1)
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("row 41: the text\nis broken")
        return self.whole[index]
