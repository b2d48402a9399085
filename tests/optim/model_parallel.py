"""A run of Lightning's ModelParallelStrategy on two gloo ranks."""

import os

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from lightning_qsgd.optim import CircuitPerturbation, ControlPerturbation, SuperpositionalGradientDescent


class Model(L.LightningModule):
    def __init__(self, scope):
        super().__init__()
        self.scope = scope
        self.net = None

    def configure_model(self):
        if self.net is None:
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
            if self.device_mesh is not None:
                fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        frozen = ControlPerturbation("frozen", CircuitPerturbation())
        return SuperpositionalGradientDescent(
            self.parameters(), lr=0.05, scope=self.scope, scale="adam", perturbation=frozen
        )

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.linspace(-1, 1, 192).sin().view(32, 6), batch_size=8)


def fit(folder, scope, epochs, strategy="auto", devices=1, ckpt_path=None, accelerator="cpu"):
    module = Model(scope)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
        max_epochs=epochs,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer, module


def whole(module):
    return {
        name: p.full_tensor().detach() if hasattr(p, "full_tensor") else p.detach()
        for name, p in module.named_parameters()
    }


def main(rank, folder, scope, port):
    """What each of two processes runs that were launched as torchrun or SLURM would."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    trainer, _ = fit(folder, scope, 1, ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1), 2)
    trainer.save_checkpoint(folder / "checkpoint")
    trainer, resumed = fit(
        folder,
        scope,
        2,
        ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        2,
        folder / "checkpoint",
    )
    weights = whole(resumed)
    state = trainer.optimizers[0].perturbation.state_dict()
    if trainer.is_global_zero:
        torch.save({"weights": weights, "circuits": state["circuits"]}, folder / "found.pt")
