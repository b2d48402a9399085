"""Tables, images and series in each precision and strategy that runs on this machine."""

import pytest
import torch

from tests.any_data import CONFIGS, assert_close, fit
from tests.ranks import on_two_ranks

PRECISIONS = {"bf16-mixed": torch.float32, "64-true": torch.float64}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_in_each_precision_and_a_resumed_one(tmp_path, name, precision):
    option = f"--trainer.precision={precision}"
    fit(tmp_path / "resumed", name, 1, option)
    resumed = fit(tmp_path / "resumed", name, 2, option, "--ckpt_path=last")
    assert_close(resumed, fit(tmp_path / "straight", name, 2, option), 0.0)
    assert {value.dtype for value in resumed.values()} == {PRECISIONS[precision]}


def on_each_rank(folder, strategy):
    """A step and a resumed one of each configuration."""
    options = [f"--config=configs/overlay/{strategy}.yaml", "--trainer.precision=64-true"]
    return {
        name: [fit(folder, name, 1, *options), fit(folder, name, 2, *options, "--ckpt_path=last")] for name in CONFIGS
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp2", "fsdp"])
def test_two_ranks_take_the_steps_of_one_process(tmp_path, strategy):
    found = on_two_ranks(on_each_rank, tmp_path, tmp_path, strategy)
    for name in CONFIGS:
        alone = [fit(tmp_path / f"alone{steps}", name, steps, "--trainer.precision=64-true") for steps in (1, 2)]
        for rank in found:
            for together, expected in zip(rank[name], alone, strict=True):
                assert_close(together, expected, 1e-9)
