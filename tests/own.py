"""What a user might bring: a table of numbers, and modules with a circuit that know nothing of this project."""

import lightning as L
import torch
from qiskit.primitives import BaseSamplerV2
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_qsgd.quantum import QuantumLayer, QuantumNetwork, layered_circuit

#: Arguments of a run in silence: two epochs of three steps.
RUN = [
    "--data=tests.own.Points", "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--experiment=own",
    "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1",
]  # fmt: skip


class Points(L.LightningDataModule):
    """Two numbers in, their product out, or whether it is positive."""

    def loader(self, first, last):
        x = torch.linspace(-1, 1, 96, dtype=torch.float32).sin().view(48, 2)[first:last].roll(1, 1)
        return DataLoader(TensorDataset(x, x.prod(1), (x.prod(1) > 0).long()), batch_size=8)

    def train_dataloader(self):
        return self.loader(0, 24)

    def val_dataloader(self):
        return self.loader(24, 36)

    def test_dataloader(self):
        return self.loader(36, 48)

    predict_dataloader = test_dataloader


class Positional(Points):
    """Its loader for predict has a batch size without a name."""

    def predict_dataloader(self):
        return DataLoader(torch.zeros(8, 2), 4)


class Regression(L.LightningModule):
    """Linear, two qubits, linear; no save_hyperparameters. ``schedule`` makes its scheduler of the optimizer."""

    def __init__(
        self,
        width: int = 2,
        lr: float = 0.05,
        weight_decay: float = 0.0,
        activation: str = "tanh",
        patience: int | None = None,
        plateau: str = "val/mes",
        total_steps: int | None = None,
        late: bool = False,
        options: dict[str, int] | None = None,
        sampler: BaseSamplerV2 | None = None,
    ) -> None:
        super().__init__()
        self.plateau, self.options = plateau, options
        self.lr, self.weight_decay, self.patience, self.total_steps, self.late = (
            lr,
            weight_decay,
            patience,
            total_steps,
            late,
        )
        self.activation = activation
        ansatz = layered_circuit(2, depth=1)
        network = QuantumNetwork(ansatz, sampler) if sampler else None
        self.enter, self.leave = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2)), nn.Linear(2, 1)
        self.circuit = QuantumLayer(ansatz, "expectations", network)

    def forward(self, x):
        x = self.enter(x)
        return self.leave(self.circuit(x.tanh() if self.activation == "tanh" else x.relu()))[:, 0]

    def step(self, batch, name):
        loss = nn.functional.mse_loss(self(batch[0]), batch[1])
        if not self.late or name != "val":
            self.log(f"{name}/mse", loss)
        return loss

    def training_step(self, batch, batch_idx):
        return self.step(batch, "train")

    def validation_step(self, batch, batch_idx):
        self.step(batch, "val")

    def test_step(self, batch, batch_idx):
        self.step(batch, "test")

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def on_train_epoch_end(self):
        if self.late:
            self.log("late/epoch", float(self.current_epoch))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=self.weight_decay)
        if self.patience is not None:
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=self.patience)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.plateau}}
        if self.total_steps is not None:
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.total_steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        return optimizer


class Remembered(Regression):
    """The same with save_hyperparameters, but for what is no plain value."""

    def __init__(self, width: int = 2, activation: str = "tanh", sampler: BaseSamplerV2 | None = None) -> None:
        super().__init__(width, activation=activation, sampler=sampler)
        self.save_hyperparameters()
