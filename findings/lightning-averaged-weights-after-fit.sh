#!/usr/bin/env bash
# lightning 2.6.6: a checkpoint that is saved after fit with EMAWeightAveraging (or WeightAveraging) holds the averaged weights twice, also as
# current_model_state: on_train_end has put them into the model. A run that is extended from it trains on from the average, and
# ends elsewhere than one that was not stopped.
#
# Seen on 2026-11-29 with Python 3.11:
#   lightning 2.6.6 torch 2.13.0
#   in the checkpoint: state_dict 3.125, current_model_state 3.125; the model was at 4.0
#   two epochs: 7.0078125; one epoch, and one more: 6.1875
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
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader


class Counting(pl.LightningModule):
    """Its weight is the number of steps; there are four an epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)

    def train_dataloader(self):
        return DataLoader(torch.zeros(4), batch_size=1)


def trained(epochs, ckpt_path=None):
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=EMAWeightAveraging(decay=0.5), enable_checkpointing=False,
        logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )
    module = Counting()
    trainer.fit(module, ckpt_path=ckpt_path)
    trainer.save_checkpoint(f"{epochs}.ckpt")
    return module.weight.item()


whole = trained(2)
trained(1)
saved = torch.load("1.ckpt", weights_only=True)
average, current = (saved[name]["weight"].item() for name in ("state_dict", "current_model_state"))
extended = trained(2, "1.ckpt")
print("lightning", lightning.__version__, "torch", torch.__version__)
print(f"in the checkpoint: state_dict {average}, current_model_state {current}; the model was at 4.0")
print(f"two epochs: {whole}; one epoch, and one more: {extended}")
assert average == current != 4.0
assert whole != extended
PYTHON
