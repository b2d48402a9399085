#!/usr/bin/env bash
# lightning 2.6.6 with torch 2.13.0: after save_hyperparameters() of a module with an object among its arguments, Lightning writes checkpoints that
# Trainer.fit(ckpt_path=...) of the same program refuses to read.
#
# Seen on 2026-11-29 with Python 3.11:
#   lightning 2.6.6 torch 2.13.0
#   UnpicklingError: Weights only load failed. This file can still be loaded, to do so you have two options
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - 2>"$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import lightning
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader


class Scale:
    factor = 2.0


class Module(pl.LightningModule):
    def __init__(self, scale):
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return -self.weight * self.hparams.scale.factor

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)

    def train_dataloader(self):
        return DataLoader(torch.zeros(4), batch_size=1)


def fit(epochs, ckpt_path=None):
    trainer = pl.Trainer(max_epochs=epochs, enable_checkpointing=False, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    trainer.fit(Module(Scale()), ckpt_path=ckpt_path)
    trainer.save_checkpoint("saved.ckpt")


print("lightning", lightning.__version__, "torch", torch.__version__)
fit(1)
try:
    fit(2, "saved.ckpt")
except Exception as error:
    print(f"{type(error).__name__}: {str(error).splitlines()[0].split(',')[0]}, to do so you have two options")
else:
    raise SystemExit("changed: it is read now")
PYTHON
