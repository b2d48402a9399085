#!/usr/bin/env bash
# lightning 2.6.6: ModelCheckpoint drops its best score when a run is resumed from a copied or moved folder (it warns that only the best path is
# reloaded). With a fixed file name and enable_version_counter=False, the next epoch then replaces the best checkpoint, whatever its score.
#
# Seen on 2026-11-29 with Python 3.11:
#   lightning 2.6.6 torch 2.13.0
#   epoch of best.ckpt: 1
#   resumed in place: 1
#   resumed in a copy: 2 (its score is 0.5; epoch 1 had 0.9)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - 2>"$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import shutil

import lightning
import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader


class Scripted(pl.LightningModule):
    def __init__(self, scores):
        super().__init__()
        self.scores, self.weight = scores, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.log("score", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)

    def train_dataloader(self):
        return DataLoader(torch.zeros(2), batch_size=1)

    val_dataloader = train_dataloader


def best_of(folder, scores, resumes=False):
    best = ModelCheckpoint(folder, "best", "score", mode="max", save_last=True, enable_version_counter=False)
    trainer = pl.Trainer(
        max_epochs=len(scores), callbacks=best, num_sanity_val_steps=0, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    trainer.fit(Scripted(scores), ckpt_path=f"{folder}/last.ckpt" if resumes else None)
    return torch.load(f"{folder}/best.ckpt", weights_only=True)["epoch"]


print("lightning", lightning.__version__, "torch", torch.__version__)
print("epoch of best.ckpt:", best_of("run", [0.1, 0.9]))
shutil.copytree("run", "copy")
in_place, in_a_copy = best_of("run", [0.1, 0.9, 0.5], True), best_of("copy", [0.1, 0.9, 0.5], True)
print("resumed in place:", in_place)
print(f"resumed in a copy: {in_a_copy} (its score is 0.5; epoch 1 had 0.9)")
assert (in_place, in_a_copy) == (1, 2)
PYTHON
