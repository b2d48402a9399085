"""Trajectories from checkpoints."""

import pytest
import torch

from lightning_qsgd.audit.recording import Recorder, checkpoints_in, replay
from lightning_qsgd.cli import main
from lightning_qsgd.experiment import Experiment
from tests.common import FEW_SHOTS, SMALL, TINY_ARGUMENTS

GIVEN = ["--config", "configs/seqcls.yaml", FEW_SHOTS, *SMALL, *TINY_ARGUMENTS]
GIVEN += ["--model.optimizer.perturbation.sampler=lightning_qsgd.quantum.ExactSampler"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    main(["fit", *GIVEN, "--trainer.default_root_dir", str(root), "--trainer.max_epochs=3"])
    return root / "seqcls" / "version_0"


def test_a_folder_gives_all_its_checkpoints_in_order(run):
    files = checkpoints_in(run)
    assert files == checkpoints_in(run / "checkpoints")
    steps = [torch.load(file, weights_only=True)["global_step"] for file in files]
    assert steps == sorted(set(steps))
    assert steps[-1] == 9


@pytest.mark.parametrize("whole", [False, True])
def test_the_angles_are_those_of_the_checkpoints(run, whole):
    recorder = Recorder()
    path = run if whole else run / "checkpoints" / "last.ckpt"
    experiment = Experiment.typed([*GIVEN, "--trainer.default_root_dir", str(run.parents[1])])
    replay(experiment, str(path), recorder)
    trajectory = recorder.trajectory()
    files = checkpoints_in(run) if whole else [path]
    assert len(trajectory.steps) == len(files)
    for file, angles, s in zip(files, trajectory.angles, trajectory.s, strict=True):
        state = torch.load(file, weights_only=True)["state_dict"]
        expected = torch.pi * state["model.embedding.weight"].flatten()[:4]
        row = trajectory.tensor_names().index("model.embedding.weight")
        torch.testing.assert_close(angles[row], expected)
        answer = recorder.perturbation(angles[row : row + 1], step=0)
        torch.testing.assert_close(s[row : row + 1], answer)
    last = torch.load(files[-1], weights_only=True)["state_dict"]
    for name, value in experiment.module.state_dict().items():
        assert torch.equal(value, last[name]), name  # the weights are the checkpoint's again


def test_a_weight_that_has_faded_out_is_replayed_all_the_same(run, tmp_path):
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for group in state["optimizer_states"][0]["param_groups"]:
        group |= {"lr": 0.0, "quantum_weight": 0.0}
    torch.save(state, tmp_path / "faded.ckpt")
    recorder = Recorder()
    replay(Experiment.typed(GIVEN), str(tmp_path / "faded.ckpt"), recorder)
    assert recorder.trajectory() is not None


def test_checkpoints_of_weights_only_are_left_out_or_named(run, tmp_path):
    whole = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    early = {k: v for k, v in whole.items() if k not in ("optimizer_states", "lr_schedulers")} | {"global_step": 1}
    torch.save(early, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"best.ckpt holds only weights .*; use last.ckpt of the run"):
        replay(Experiment.typed(GIVEN), str(tmp_path / "best.ckpt"), Recorder())
    torch.save(whole, tmp_path / "last.ckpt")
    recorder = Recorder()
    replay(Experiment.typed(GIVEN), str(tmp_path), recorder)
    assert len(recorder.trajectory().steps) == 1


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoints in .*; give a file, a run folder, last, or best"):
        checkpoints_in(tmp_path)
