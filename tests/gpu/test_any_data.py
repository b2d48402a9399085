"""Tables, images and series on a GPU."""

import pytest

from tests.any_data import CONFIGS, assert_close, fit
from tests.gpu.common import ACCELERATOR, GPU

pytestmark = GPU
DEVICE = [f"--trainer.accelerator={ACCELERATOR}", "--trainer.devices=1"]


@pytest.mark.parametrize("options", [
    ["--trainer.precision=32-true"], ["--trainer.precision=bf16-mixed"], ["--trainer.precision=64-true"],
    ["--trainer.precision=64-true", "--trainer.strategy=ddp"],
], ids=lambda options: options[-1].rpartition("=")[2])  # fmt: skip
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_and_a_resumed_one(tmp_path, name, options):
    options = [*DEVICE, "--config=configs/overlay/deterministic.yaml", *options]
    fit(tmp_path / "resumed", name, 1, *options)
    resumed = fit(tmp_path / "resumed", name, 2, *options, "--ckpt_path=last")
    assert_close(resumed, fit(tmp_path / "straight", name, 2, *options), 0.0)
    if "--trainer.precision=64-true" in options:
        assert_close(resumed, fit(tmp_path / "cpu", name, 2, "--trainer.accelerator=cpu", options[3]), 1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_fsdp2(tmp_path, name):
    sharded = [
        *DEVICE, "--config=configs/overlay/fsdp.yaml", "--trainer.devices=1", "--data.batch_size=32",
        "--trainer.strategy.data_parallel_size=1",
    ]  # fmt: skip
    fit(tmp_path / "sharded", name, 1, *sharded)
    resumed = fit(tmp_path / "sharded", name, 2, *sharded, "--ckpt_path=last")
    assert_close(resumed, fit(tmp_path / "plain", name, 2, *DEVICE), 1e-4)
