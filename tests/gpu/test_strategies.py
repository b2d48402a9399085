"""Distributed strategies on one GPU, by nccl: the numbers of a run without them."""

import subprocess
import sys

import pytest
import torch

from tests.gpu.common import ACCELERATOR, GPU, ROOT, assert_same_weights, checkpoint, run, run_alone

pytestmark = GPU

MODEL_PARALLEL = """
import sys
from pathlib import Path
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from tests.optim.model_parallel import fit, whole

folder, accelerator = Path(sys.argv[1]), sys.argv[2]
def strategy():
    return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
trainer, _ = fit(folder, "all", 1, strategy(), 1, accelerator=accelerator)
trainer.save_checkpoint(folder / "checkpoint")
trainer, module = fit(folder, "all", 2, strategy(), 1, folder / "checkpoint", accelerator=accelerator)
assert all(type(p.data).__name__ == "DTensor" or hasattr(p, "full_tensor") for p in module.parameters())
torch.save({name: p.cpu() for name, p in whole(module).items()}, folder / "sharded.pt")
_, module = fit(folder, "all", 2, accelerator=accelerator)
torch.save({name: p.cpu() for name, p in whole(module).items()}, folder / "single.pt")
"""


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_ddp(tmp_path, precision):
    options = ["--trainer.max_epochs=1", f"--trainer.precision={precision}"]
    options += ["--config=configs/overlay/deterministic.yaml"]
    run("fit", tmp_path / "single", *options)
    run_alone("fit", tmp_path / "ddp", *options, "--trainer.strategy=ddp")
    assert_same_weights(checkpoint(tmp_path / "single"), checkpoint(tmp_path / "ddp"), 1e-4)


def test_model_parallel_strategy_with_fsdp2_trains_saves_and_resumes(tmp_path):
    command = [sys.executable, "-c", MODEL_PARALLEL, str(tmp_path), ACCELERATOR]
    subprocess.run(command, cwd=ROOT, check=True, timeout=200)
    sharded, single = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("sharded", "single"))
    for name, weight in single.items():
        torch.testing.assert_close(sharded[name], weight, atol=1e-5, rtol=1e-4)
