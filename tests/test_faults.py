"""Faults that are really done to a run: it says what happened, and nothing is lost."""

import os
import resource
import signal
import tempfile
from pathlib import Path

import pytest
import torch

from tests.runs import assert_equal, folder, output, run

OPTIONS = ["--exact_resume.every_n_steps=3", "--trainer.max_epochs=2"]


def at_step(number, act):
    """Make the run do ``act`` before training step ``number``, counted from 1."""
    from lightning_qsgd.tasks import SequenceClassification

    original, calls = SequenceClassification.training_step, iter(range(1, 1000))

    def training_step(self, batch, batch_idx):
        if next(calls) == number:
            act(Path(self.trainer.default_root_dir))
        return original(self, batch, batch_idx)

    SequenceClassification.training_step = training_step


def fill_the_disk():
    """From step 8 on no file can grow beyond 300 kB, as on a full disk; a checkpoint is larger."""

    def act(folder):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    at_step(8, act)


def make_read_only():
    """From step 8 on the folder of checkpoints is read-only, also for root."""

    def act(folder):
        for path in (folder, *folder.iterdir()):
            path.chmod(0o777)
        (folder / "checkpoints").chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)

    at_step(8, act)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "straight"
    assert run(root, *OPTIONS) == 0, output(root)
    return root


@pytest.fixture
def open_path():
    """A folder that other users can enter, unlike ``tmp_path``."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("fault", [fill_the_disk, make_read_only])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(open_path, straight, fault):
    root = open_path / "broken"
    assert run(root, *OPTIONS, prepare=fault) == 2
    last = folder(root) / "checkpoints" / "last.ckpt"
    last.parent.chmod(0o755)
    message = output(root).splitlines()[-1]
    assert message.startswith("error: ")
    assert f"Could not write {last}: " in message
    assert message.endswith("an earlier file there is intact")
    assert torch.load(last, weights_only=True)["global_step"] == 6
    assert sorted(p.name for p in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert run(root, *OPTIONS, "--ckpt_path=last") == 0, output(root)
    assert_equal(straight, root)


def test_a_truncated_checkpoint_is_named_and_the_one_before_takes_over(tmp_path, straight):
    root = tmp_path / "truncated"
    assert run(root, *OPTIONS, "--trainer.max_epochs=1") == 0
    last = folder(root) / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-5000])
    assert run(root, *OPTIONS, "--ckpt_path=last") == 2
    message = output(root).splitlines()[-1]
    assert f"Checkpoint {last} cannot be read: it was cut off" in message
    assert "--ckpt_path previous" in message
    assert run(root, *OPTIONS, "--ckpt_path=previous") == 0, output(root)
    assert_equal(straight, root)


def lose_the_backend():
    """From the tenth job on the sampler of live circuits raises."""
    from lightning_qsgd.quantum import ShotSampler

    original, jobs = ShotSampler.run, iter(range(1, 1000))

    def run(self, *arguments, **options):
        if next(jobs) >= 10:
            raise ConnectionError("the device is gone")
        return original(self, *arguments, **options)

    ShotSampler.run = run


def test_a_live_run_that_loses_its_backend_stops_with_a_checkpoint_of_the_step_before(tmp_path):
    straight, root = tmp_path / "straight", tmp_path / "lost"
    live = ["--config=configs/overlay/live.yaml", "--trainer.max_epochs=2"]
    assert run(straight, *live) == 0, output(straight)
    assert run(root, *live, prepare=lose_the_backend) == 2
    assert "the device is gone" in output(root).splitlines()[-1]
    assert torch.load(folder(root) / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 9
    assert run(root, *live, "--ckpt_path=last") == 0, output(root)
    assert_equal(straight, root)
