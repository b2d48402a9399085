#!/usr/bin/env bash
# torchmetrics 1.9.0: R2Score sums the targets and their squares in the precision of its inputs, and subtracts one from the other at the end.
# With targets far from zero nothing is left in float32: here (mean 30,000, standard deviation 10) the score depends on the size of the
# batches, and is above 1 for one of them. set_dtype(torch.float64) alone gives other wrong numbers; float64 inputs are right. The
# guess was an error of about 1e-3 at most, since float32 holds the targets themselves to 1e-3.
#
# Seen on 2026-11-30 with Python 3.11:
#   torchmetrics 1.9.0 torch 2.13.0 R2 by its definition: 0.930
#   float32, batches of 1000, 10 and 1: [0.0, 0.972, 1.016]
#   the same with set_dtype(torch.float64): [1.171, 0.937, 0.93]
#   float64 inputs: [0.93, 0.93, 0.93]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import torchmetrics

torch.manual_seed(0)
targets = 30_000 + 10 * torch.randn(1000)
predictions = targets + 2.8 * torch.randn(1000)

def scores(inputs, state):
    metrics = {size: torchmetrics.R2Score().set_dtype(state) for size in (1000, 10, 1)}
    for size, metric in metrics.items():
        for batch in zip(predictions.to(inputs).split(size), targets.to(inputs).split(size), strict=True):
            metric.update(*batch)
    return [round(metric.compute().item(), 3) for metric in metrics.values()]

right = 1 - (predictions - targets).double().square().sum() / (targets.double() - targets.double().mean()).square().sum()
print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__.split("+")[0], f"R2 by its definition: {right:.3f}")
single, state, double = scores(torch.float32, torch.float32), scores(torch.float32, torch.float64), scores(torch.float64, torch.float32)
print(f"float32, batches of 1000, 10 and 1: {single}\nthe same with set_dtype(torch.float64): {state}\nfloat64 inputs: {double}")
assert abs(single[0] - right) > 0.5 and abs(state[0] - right) > 0.1 and all(abs(score - right) < 1e-3 for score in double)
PYTHON
