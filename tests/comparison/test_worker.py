"""A run that stops in any way is repeated or goes on, and ends as if it had never stopped."""

import errno
import json
import os
import shutil
import threading

import pytest

from lightning_qsgd.callbacks import Stopped
from lightning_qsgd.comparison import worker
from lightning_qsgd.comparison.arms import Arms
from lightning_qsgd.comparison.spec import Arm
from lightning_qsgd.comparison.worker import RESULT, execute
from lightning_qsgd.files import atomic_write
from lightning_qsgd.tasks import SequenceClassification
from tests.comparison.test_runner import SMALL, comparison

SETTINGS = SMALL | {"data.init_args": {"train_size": 96, "val_size": 40}, "trainer.accumulate_grad_batches": 2}
SETTINGS |= {"monitor.every_n_steps": 1}
CLOCKS = ("seconds", "evaluation_seconds", "whole_seconds", "circuit_seconds", "peak_memory", "circuits")


def plan(tmp_path, **settings):
    arms = {"adamw": Arm(), "other": Arm()}
    return Arms(comparison(tmp_path, arms=arms, set=SETTINGS | settings)).plan("adamw", 1, "evaluation", {})


def go(plan, **more):
    run = {"arm": plan.arm, "seed": plan.seed, "phase": plan.phase, "values": {}}
    return execute(str(plan.folder), run, plan.config, os.getcwd(), **more)


def without_clocks(result):
    """All that does not depend on when and how fast it ran."""
    run = json.loads(json.dumps(result["run"]))
    del run["host"]
    run["curve"].pop("seconds")
    run["cost"] = {name: value for name, value in run["cost"].items() if name not in CLOCKS}
    return run | {"parameter_digests": result["parameter_digests"]}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return go(plan(tmp_path_factory.mktemp("straight")))


def failing(monkeypatch, number, error):
    """Let training step ``number``, counted from 1, raise."""
    original, calls = SequenceClassification.training_step, iter(range(1, 1000))

    def training_step(self, batch, batch_idx):
        if next(calls) == number:
            raise error
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SequenceClassification, "training_step", training_step)


def test_what_a_run_leaves(straight, tmp_path):
    run = straight["run"]
    assert run["status"] == "finished"
    assert (run["cost"]["steps"], run["cost"]["examples"]) == (4, 192)  # 3 batches of 32 make 2 steps an epoch
    assert len(run["hashes"]["batches"]) == len(run["curve"]["val/accuracy"]) == 2
    assert 0 < run["cost"]["seconds"] < run["cost"]["whole_seconds"]


@pytest.mark.parametrize("number", [2, 5, 6])  # within accumulated gradients; in the second epoch; its last step
def test_a_run_that_failed_within_a_step_goes_on_as_if_it_had_not(straight, tmp_path, monkeypatch, number):
    one = plan(tmp_path)
    with monkeypatch.context() as patch:
        failing(patch, number, ZeroDivisionError("by chance"))
        assert go(one)["run"]["error"].endswith("in training_step: ZeroDivisionError: by chance")
    (one.folder / RESULT).unlink()
    assert without_clocks(go(one)) == without_clocks(straight)


def test_ctrl_c_is_no_failure(straight, tmp_path, monkeypatch):
    one = plan(tmp_path)
    with monkeypatch.context() as patch:
        failing(patch, 5, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            go(one)
    assert not (one.folder / RESULT).exists()
    assert without_clocks(go(one)) == without_clocks(straight)


def test_a_run_that_was_killed_after_its_last_step(straight, tmp_path, monkeypatch):
    one = plan(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_averaged", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            go(one)
    kept = tmp_path / "kept"
    shutil.copytree(one.folder, kept)
    assert without_clocks(go(one)) == without_clocks(straight)
    shutil.rmtree(one.folder)
    kept.rename(one.folder)
    (one.folder / "checkpoints" / "last.ckpt").write_bytes(b"cut off")
    with pytest.warns(UserWarning, match=r"last\.ckpt cannot be read"):
        assert without_clocks(go(one)) == without_clocks(straight)


def test_a_result_that_cannot_be_read_is_made_again(straight, tmp_path):
    one = plan(tmp_path)
    one.folder.mkdir(parents=True)
    (one.folder / RESULT).write_text('{"run": {"arm"')
    with pytest.warns(UserWarning, match=r"result\.json cannot be read .* repeating the run"):
        assert without_clocks(go(one)) == without_clocks(straight)
    assert go(one) == json.loads((one.folder / RESULT).read_text())


def test_a_full_disk_is_no_property_of_the_run(straight, tmp_path, monkeypatch):
    one = plan(tmp_path)

    def full(path, mode="w"):
        if str(path).endswith(".ckpt"):
            raise OSError(errno.ENOSPC, f"Could not write {path}: No space left on device")
        return atomic_write(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr("lightning_qsgd.run_folder.atomic_write", full)
        with pytest.raises(OSError, match="No space left on device"):
            go(one)
    assert not (one.folder / RESULT).exists()
    assert without_clocks(go(one)) == without_clocks(straight)


def test_runs_in_threads_of_one_process_come_one_after_the_other(straight, tmp_path):
    """As on a worker of Dask with several threads; generators and output belong to the process."""
    plans = [plan(tmp_path / name) for name in "ab"]
    found = []
    threads = [threading.Thread(target=lambda one=one: found.append(go(one))) for one in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [without_clocks(result) for result in found] == [without_clocks(straight)] * 2


def test_a_worker_without_its_parent_ends_with_a_checkpoint(straight, tmp_path, monkeypatch):
    one, codes = plan(tmp_path), []

    def leave(code):
        codes.append(code)
        raise KeyboardInterrupt  # os._exit does not return

    monkeypatch.setattr(worker.os, "_exit", leave)
    with monkeypatch.context() as patch:
        parents = iter([os.getppid()] * 4)  # at the start and before three batches
        patch.setattr(worker.os, "getppid", lambda: next(parents, 0))
        with pytest.raises(KeyboardInterrupt):
            go(one, parent=os.getppid())
    assert codes == [143]
    assert (one.folder / "checkpoints" / "last.ckpt").is_file()
    with pytest.raises(KeyboardInterrupt):
        go(one, parent=1 << 30)
    assert not (one.folder / RESULT).exists()
    assert without_clocks(go(one)) == without_clocks(straight)


@pytest.mark.parametrize(("error", "passes"), [(Stopped(), True), (ValueError("a size"), False)])
def test_a_signal_ends_a_probe_and_an_error_is_left_to_the_run(tmp_path, monkeypatch, error, passes):
    def fails(*arguments):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "first_steps", fails)
    if passes:
        with pytest.raises(Stopped):
            worker.probe({}, str(tmp_path))
    else:
        assert worker.probe({}, str(tmp_path)) is None
