#!/usr/bin/env bash
# torchmetrics 1.9.0: MulticlassCalibrationError(n_bins=15) puts a confidence of exactly 1 into a sixteenth bin, apart from those just below
# it. In float32 a softmax is exactly 1 once its largest logit leads by 18, as in a network that is trained to the end. Here one row is wrong
# with confidence 1 and one right with 0.95: in one bin the mean confidence is 0.975 and the accuracy 0.5, which differ by 0.475; in two bins
# the error is (1 + 0.05) / 2. A confidence of 0.9999 gives the same as 15 bins. The guess was that 1 belongs to the last bin.
#
# Seen on 2026-11-30 with Python 3.11:
#   torchmetrics 1.9.0 torch 2.13.0 largest softmax of [20, 0]: 1.0
#   confidence 1.0:    0.525
#   confidence 0.9999: 0.475
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.classification import MulticlassCalibrationError

certain = torch.tensor([20.0, 0.0]).softmax(0)
print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__.split("+")[0], "largest softmax of [20, 0]:", certain.max().item())


def error(wrong):
    rows = torch.stack([wrong, torch.tensor([0.05, 0.95])])
    return MulticlassCalibrationError(num_classes=2, n_bins=15)(rows, torch.tensor([1, 1])).item()


found, expected = error(certain), error(torch.tensor([0.9999, 0.0001]))
print(f"confidence 1.0:    {found:.3f}\nconfidence 0.9999: {expected:.3f}")
assert abs(found - 0.525) < 1e-3 and abs(expected - 0.475) < 1e-3
PYTHON
