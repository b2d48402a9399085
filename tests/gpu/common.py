"""Where the tests of this folder run, and settings that they share.

`python -m pytest tests/gpu -m gpu` needs CUDA. `GPU_TESTS_DEVICE=cpu` is a rehearsal of them on a CPU, which shows no
more than that they are correct Python.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_qsgd.cli import main
from tests.common import SMALL, TINY_ARGUMENTS

DEVICE = os.environ.get("GPU_TESTS_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch looks once, at the first product of matrices
ACCELERATOR = "gpu" if ON_GPU else "cpu"
#: `pytestmark` of each file.
GPU = [pytest.mark.gpu, pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a CUDA device")]
ROOT = Path(__file__).parents[2]


def arguments(command, root, *options, model="seqcls", accelerator=ACCELERATOR):
    small = [argument for argument in SMALL if "accelerator" not in argument]
    return [
        command, f"--config=configs/{model}.yaml", *small, *TINY_ARGUMENTS, "--trainer.devices=1",
        f"--trainer.accelerator={accelerator}", f"--trainer.default_root_dir={root}", *options,
    ]  # fmt: skip


def run(command, root, *options, **where):
    """A command in this process."""
    main(arguments(command, root, *options, **where))


def run_alone(command, root, *options, **where):
    """A command in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "lightning_qsgd", *arguments(command, root, *options, **where)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=200,
    )  # fmt: skip


def folder(root, model="seqcls"):
    return root / model / "version_0"


def checkpoint(root, model="seqcls"):
    return torch.load(folder(root, model) / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)


def assert_same_weights(first, second, tolerance=0.0):
    first, second = first["state_dict"], second["state_dict"]
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=tolerance, rtol=tolerance, msg=name)


def half_precision(precision):
    """Arguments for a precision; in the rehearsal, 16-mixed takes a loss scaler of the CPU's."""
    if precision == "16-mixed" and not ON_GPU:
        return ["--trainer.precision=null", "--trainer.plugins=tests.ranks.Float16OnCpu"]
    return [f"--trainer.precision={precision}"]
