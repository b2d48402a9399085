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


def on_each_rank(folder, strategy, precision):
    """A step and a resumed one of each configuration."""
    options = [f"--config=configs/overlay/{strategy}.yaml", precision]
    return {
        name: [fit(folder, name, 1, *options), fit(folder, name, 2, *options, "--ckpt_path=last")] for name in CONFIGS
    }


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "precision", "tolerance"), [("ddp2", "64-true", 1e-9), ("fsdp", "32-true", 1e-3)])
def test_two_ranks_take_the_steps_of_one_process(tmp_path, strategy, precision, tolerance):
    precision = f"--trainer.precision={precision}"  # FSDP2 in Lightning has no float64
    found = on_two_ranks(on_each_rank, tmp_path, tmp_path, strategy, precision)
    for name in CONFIGS:
        alone = [fit(tmp_path / f"alone{steps}", name, steps, precision) for steps in (1, 2)]
        for rank in found:
            for together, expected in zip(rank[name], alone, strict=True):
                assert_close(together, expected, tolerance)


def noisy_on_each_rank(folder):
    """The weights after two steps with shot noise: straight, and resumed after the first."""
    options = ["--config=configs/overlay/fsdp.yaml", "--model.body.sampler=lightning_qsgd.quantum.ShotSampler"]
    straight = fit(folder / "straight", "table", 2, *options)
    fit(folder / "resumed", "table", 1, *options)
    resumed = fit(folder / "resumed", "table", 2, *options, "--ckpt_path=last")
    with pytest.raises(
        ValueError, match=r"Invalid ckpt_path: model\.body\.circuit: the weights belong to another circuit"
    ):
        fit(
            folder / "resumed",
            "table",
            3,
            *options,
            "--ckpt_path=last",
            "--model.body.options={depth: 2, gates: [rx, rz, ry]}",
        )
    return straight, resumed


@pytest.mark.slow
def test_sharded_runs_resume_the_sequence_of_shot_noise_and_check_the_circuit(tmp_path):
    for straight, resumed in on_two_ranks(noisy_on_each_rank, tmp_path, tmp_path):
        assert_close(resumed, straight, 0.0)
