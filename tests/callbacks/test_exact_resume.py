"""Runs that are killed, stopped or fail, resumed: the same as the run that was not, bit for bit."""

import os
import random
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_qsgd.callbacks.resume_state import get_states, pack, set_states, unpack
from tests.runs import Killer, assert_equal, differences, folder, output, rows, run

OWN = ["--data.class_path=tests.resumable.OwnData", "--model.class_path=tests.resumable.Noted"]


def kill_and_resume(tmp_path, straight, number, options, *killers):
    root = tmp_path / f"killed{number}"
    resume: tuple[str, ...] = ()
    for attempt, killer in enumerate(killers):
        assert run(root, *options, *resume, prepare=killer) != 0, output(root)
        if (folder(root) / "checkpoints" / "last.ckpt").is_file():
            resume = ("--ckpt_path=last",)
        else:
            root = tmp_path / f"killed{number}_{attempt}"
    assert run(root, *options, *resume) == 0, output(root)
    assert_equal(straight, root)


EVERY_3 = ["--exact_resume.every_n_steps=3"]
CASES = {
    "plain": [*OWN, *EVERY_3],
    "generator of the loader": [*OWN, *EVERY_3, "--data.kind=generator"],
    "loader with a state": [*OWN, *EVERY_3, "--data.kind=stateful"],
    "loader without a length": [*OWN, *EVERY_3, "--data.kind=stream"],
    "workers": [*OWN, *EVERY_3, "--data.num_workers=2"],
    "accumulation": [*OWN, *EVERY_3, "--trainer.accumulate_grad_batches=4"],
    "validation within epochs": [*OWN, *EVERY_3, "--trainer.val_check_interval=4"],
    "validation in some epochs": [*OWN, *EVERY_3, "--trainer.check_val_every_n_epoch=2"],
    "live": [*EVERY_3, "--config=configs/overlay/live.yaml"],
    "displaced": [*EVERY_3, "--config=configs/overlay/displaced.yaml"],
}


SCHEDULER = "lightning.pytorch.cli.ReduceLROnPlateau"
CASES |= {
    "plateau": [*OWN, *EVERY_3, f"--model.scheduler={SCHEDULER}", "--model.scheduler.monitor=val/loss",
                "--model.scheduler.patience=0", "--model.scheduler.threshold=0.5"],
    "steps as the limit": [*OWN, *EVERY_3, "--trainer.max_epochs=-1", "--trainer.max_steps=25"],
    "averaged weights": [*OWN, *EVERY_3, "--config=configs/overlay/ema.yaml"],
    "quantum attention": [*EVERY_3, "--model.attention=quantum", "--trainer.max_epochs=2"],
    "part of each epoch": [*OWN, *EVERY_3, "--trainer.limit_train_batches=0.7"],
    "loader made anew": [*OWN, *EVERY_3, "--trainer.reload_dataloaders_every_n_epochs=1"],
    "mixed precision": [*EVERY_3, "--trainer.precision=bf16-mixed"],
}  # fmt: skip
TWO = ["--trainer.strategy=ddp_fork", "--trainer.devices=2", "--data.batch_size=16"]
CASES |= {
    "two processes": [*EVERY_3, *TWO, "--model.class_path=tests.resumable.Noted"],
    "two processes, live": [*EVERY_3, *TWO, "--config=configs/overlay/live.yaml"],
    "two processes, own loaders": [*OWN, *EVERY_3, *TWO[:2], "--data.kind=stateful", "--data.size=84"],
}
QUICK = ["plain", "accumulation", "live", "displaced", "steps as the limit"]
#: Cases in which the place within the data after a resumed run is found in another way than in those above.
LOADERS = [name for name in CASES if "loader" in name or name == "workers"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CASES])
def test_killed_and_resumed_is_the_run_that_was_not(tmp_path, name):
    straight = tmp_path / "straight"
    assert run(straight, *CASES[name]) == 0, output(straight)
    again = [Killer("forward", 7)] if name in QUICK + LOADERS else []
    kill_and_resume(tmp_path, straight, 0, CASES[name], Killer("forward", 15), *again)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "straight"
    assert run(root, *CASES["plain"]) == 0, output(root)
    return root


_numbers = iter(range(1000))


#: Three of them lie within a run of 30 steps.
PLACES = st.tuples(st.sampled_from(["forward", "step", "epoch"]), st.integers(1, 9))
PLACES |= st.tuples(st.sampled_from(["validation", "write"]), st.integers(1, 4))


@pytest.mark.slow
@settings(max_examples=7, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(killed=st.lists(PLACES, min_size=3, max_size=3))
def test_killed_anywhere(tmp_path, straight, killed):
    killers = [Killer(where, n) for where, n in killed]
    kill_and_resume(tmp_path, straight, next(_numbers), CASES["plain"], *killers)


def test_a_run_that_max_steps_ended_within_an_epoch_goes_on(tmp_path):
    straight, longer = tmp_path / "straight", tmp_path / "longer"
    options = ["--model.class_path=tests.resumable.Noted", "--trainer.max_epochs=-1", "--trainer.max_steps"]
    assert run(straight, *options, "25") == 0
    assert run(longer, *options, "14") == 0
    assert run(longer, *options, "25", "--ckpt_path=last") == 0, output(longer)
    first, second = (torch.load(folder(r) / "checkpoints/last.ckpt", weights_only=True) for r in (straight, longer))
    assert differences(first["state_dict"], second["state_dict"]) == []
    assert differences(first["exact_resume"], second["exact_resume"]) == []
    assert rows(straight)[-1] == rows(longer)[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(("where", "n"), [("forward", 14), ("validation", 5)])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, straight, number, where, n):
    root = tmp_path / "stopped"
    options = [*OWN, "--trainer.accumulate_grad_batches=1"]
    assert run(root, *options, prepare=Killer(where, n, number)) == 143
    last = folder(root) / "checkpoints" / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert step == (14 if where == "forward" else 11)  # nothing of the current step is lost
    assert f"Stopped in epoch 2; resume with --ckpt_path {last}" in output(root)
    assert run(root, *options, "--ckpt_path=last") == 0, output(root)
    assert_equal(straight, root)


def fail(where):
    """Errors of several kinds, in the middle of a step."""
    from lightning_qsgd.tasks import SequenceClassification

    original, calls = SequenceClassification.training_step, iter(range(1, 100))

    def training_step(self, batch, batch_idx):
        loss = original(self, batch, batch_idx)
        if next(calls) == 18:
            if where == "Ctrl-C":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            raise RuntimeError("on purpose")
        return loss

    SequenceClassification.training_step = training_step


def test_an_error_after_sampled_circuits_saves_nothing_that_is_not_exact(tmp_path):
    root = tmp_path / "failed"
    head = ["--config=configs/seqcls_quantum_head.yaml", "--model.head.sampler=lightning_qsgd.quantum.AerSampler"]
    few = ["--data.train_size=72", "--data.batch_size=4", "--trainer.max_epochs=1", "--exact_resume.every_n_steps=4"]
    assert run(root, *head, *few, "--trainer.limit_val_batches=0", prepare=partial(fail, "error")) == 2, output(root)
    last = next(root.glob("*/version_0/checkpoints/last.ckpt"))
    assert torch.load(last, weights_only=True)["global_step"] == 16  # the noise has moved on since step 17


@pytest.mark.parametrize(("where", "code"), [("error", 2), ("Ctrl-C", 1)])
def test_an_error_saves_the_step_before(tmp_path, straight, where, code):
    root = tmp_path / "failed"
    assert run(root, *OWN, prepare=partial(fail, where)) == code
    assert torch.load(folder(root) / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 17
    assert run(root, *OWN, "--ckpt_path=last") == 0, output(root)
    assert_equal(straight, root)


@pytest.mark.slow
def test_two_processes_stop_together_when_one_is_told_to(tmp_path):
    straight, root = tmp_path / "straight", tmp_path / "stopped"
    assert run(straight, *CASES["two processes"]) == 0
    assert run(root, *CASES["two processes"], prepare=Killer("forward", 14, signal.SIGTERM, rank=1)) == 143
    assert run(root, *CASES["two processes"], "--ckpt_path=last") == 0, output(root)
    assert_equal(straight, root)


@pytest.mark.slow
def test_the_process_that_waits_for_others_passes_the_signal_on(tmp_path):
    root = tmp_path / "stopped"
    code = run(root, *CASES["two processes"], "--trainer.max_epochs=500", prepare=partial(signal_when_saved, root))
    assert code == 143
    before = torch.load(folder(root) / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    time.sleep(3)
    assert torch.load(folder(root) / "checkpoints/last.ckpt", weights_only=True)["global_step"] == before


def signal_when_saved(root):
    """Send SIGTERM to this process, and to no child, once there is a checkpoint."""
    process = os.getpid()

    def watch():
        while not (folder(root) / "checkpoints/last.ckpt").is_file():
            time.sleep(0.1)
        os.kill(process, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize("interval", [(), ("--trainer.val_check_interval=4",)])
def test_the_best_checkpoint_resumes_with_the_right_means(tmp_path, interval):
    straight, root = tmp_path / "straight", tmp_path / "best"
    assert run(straight, *OWN, *interval) == 0
    assert run(root, *OWN, *interval, "--trainer.max_epochs=1", "--checkpoint.monitor=null") == 0
    assert run(root, *OWN, *interval, "--ckpt_path=best", "--checkpoint.monitor=null") == 0, output(root)
    checkpoints = [torch.load(folder(r) / "checkpoints/last.ckpt", weights_only=True) for r in (straight, root)]
    assert differences(*(c["state_dict"] for c in checkpoints)) == []
    assert rows(straight)[-6:] == rows(root)[-6:]


def test_a_damaged_checkpoint_does_not_replace_the_one_before(tmp_path):
    straight, root = tmp_path / "straight", tmp_path / "damaged"
    assert run(straight, *EVERY_3) == 0
    assert run(root, *EVERY_3, "--trainer.max_epochs=1") == 0
    last = folder(root) / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert run(root, *EVERY_3, "--ckpt_path=previous", prepare=Killer("write", 2)) == -signal.SIGKILL
    assert run(root, *EVERY_3, "--ckpt_path=previous") == 0, output(root)
    assert_equal(straight, root)
    assert not [path for path in last.parent.iterdir() if path.name.startswith(".")]


def test_auto_does_not_train_on_after_early_stopping(tmp_path):
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    stopping += ["--trainer.callbacks.stopping_threshold=100", "--ckpt_path=auto"]
    assert run(tmp_path / "run", *stopping) == 0, output(tmp_path / "run")
    assert run(tmp_path / "run", *stopping) == 0
    assert "was stopped early by a callback; to train on, use --ckpt_path last" in output(tmp_path / "run")


@pytest.mark.parametrize(
    "generator",
    [random.Random(3), np.random.RandomState(3), torch.Generator().manual_seed(3)]
    + [
        np.random.Generator(kind(3)) for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64)
    ],
    ids=lambda generator: type(getattr(generator, "bit_generator", generator)).__name__,
)
def test_generators_of_every_kind_are_saved_as_plain_values(tmp_path, generator):
    def draw():
        if isinstance(generator, torch.Generator):
            return torch.rand((), generator=generator).item()
        return generator.normal(0, 1) if hasattr(generator, "normal") else generator.gauss(0, 1)

    draw()
    cpu = torch.device("cpu")
    torch.save(pack(get_states(cpu, [generator])), tmp_path / "states.pt")
    expected = [draw(), random.random(), np.random.rand()]  # noqa: NPY002
    set_states(unpack(torch.load(tmp_path / "states.pt", weights_only=True)), cpu, [generator])
    assert [draw(), random.random(), np.random.rand()] == expected  # noqa: NPY002


def test_a_checkpoint_without_states_resumes_with_a_warning(tmp_path):
    root = tmp_path / "older"
    assert run(root, "--trainer.max_epochs=1") == 0
    last = folder(root) / "checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["exact_resume"], checkpoint["stopped_early"]
    torch.save(checkpoint, last)
    assert run(root, "--ckpt_path=last") == 0, output(root)
    assert "The checkpoint holds no states of generators: the resumed run will not be exact" in output(root)
    assert torch.load(last, weights_only=True)["global_step"] == 30


@pytest.mark.slow
def test_another_number_of_processes_goes_on_with_a_warning(tmp_path):
    root = tmp_path / "fewer"
    assert run(root, *CASES["two processes"], prepare=Killer("forward", 15)) != 0
    assert run(root, *CASES["two processes"][:1], CASES["two processes"][-1], "--ckpt_path=last") == 0, output(root)
    assert "The checkpoint is of 2 processes, this run has 1" in output(root)
