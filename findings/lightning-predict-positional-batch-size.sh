#!/usr/bin/env bash
# lightning 2.6.6: Trainer.predict fails on a data module whose loader is DataLoader(dataset, 8). With batch_size=8 it works, and fit, validate
# and test take both. Predict makes every loader anew, and passes the batch size twice.
#
# Seen on 2026-11-29 with Python 3.11:
#   lightning 2.6.6 torch 2.13.0
#   batch_size=8: 3 batches
#   8: MisconfigurationException DataLoader.__init__() got multiple values for argument 'batch_size'
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


class Module(pl.LightningModule):
    def predict_step(self, batch, batch_idx):
        return batch


class Named(pl.LightningDataModule):
    def predict_dataloader(self):
        return DataLoader(torch.zeros(20), batch_size=8)


class Positional(pl.LightningDataModule):
    def predict_dataloader(self):
        return DataLoader(torch.zeros(20), 8)


trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
print("lightning", lightning.__version__, "torch", torch.__version__)
print("batch_size=8:", len(trainer.predict(Module(), Named())), "batches")
try:
    trainer.predict(Module(), Positional())
except Exception as error:
    print("8:", type(error).__name__, error.__cause__)
else:
    raise SystemExit("changed: it works now")
PYTHON
