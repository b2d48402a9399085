"""What a user might bring: modules, data and optimizers that know nothing of this project."""

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch.utils.data import DataLoader


class Sign(torch.optim.SGD):
    """Steps of the gradient's sign; with ``draws`` it throws a random number away in each."""

    def __init__(self, params: Any, lr: float = 0.1, draws: bool = False) -> None:
        super().__init__(params, lr)
        self.draws = draws

    def step(self, closure=None):
        loss = closure()
        if self.draws:
            torch.rand(())
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * p.grad.sign()
        return loss


@dataclass
class Pair:
    x: torch.Tensor
    names: list[str]


class Data(L.LightningDataModule):
    """16 rows, 4 a batch, in one of several forms; shuffled by the global generator."""

    def __init__(self, form: str = "tuple", validate: bool = True) -> None:
        super().__init__()
        self.form, self.validate = form, validate

    def collate(self, rows):
        x = torch.stack(rows)
        names = [f"row {float(row[0])}" for row in rows]
        forms = {"tuple": (x, names), "dict": {"x": x, "names": names}, "nested": [[(x,)], {"names": names}]}
        return (forms | {"half": [x.bfloat16()], "class": Pair(x, names)})[self.form]

    def train_dataloader(self):
        return DataLoader(list(torch.arange(48.0).view(16, 3) / 48), 4, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self):
        if not self.validate:
            return []
        return [DataLoader(torch.arange(12.0).view(4, 3) / 12, 2) for _ in range(2)]


class Net(L.LightningModule):
    """Learns sums, with dropout that nobody seeds; logs ``error`` of the first validation set."""

    def __init__(self, optimizer: OptimizerCallable = torch.optim.SGD) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))

    def error(self, x):
        return (self.layers(x)[:, 0] - x.sum(1)).square().mean()

    def training_step(self, batch, batch_idx):
        while not isinstance(batch, torch.Tensor):
            batch = batch.x if isinstance(batch, Pair) else batch["x"] if isinstance(batch, dict) else batch[0]
        return self.error(batch.float())

    def validation_step(self, batch, batch_idx, dataloader_idx):
        if dataloader_idx == 0:
            self.log("error", self.error(batch), add_dataloader_idx=False)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())
