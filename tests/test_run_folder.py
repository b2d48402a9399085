import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_qsgd.cli import main
from lightning_qsgd.run_folder import find_checkpoint, next_version, reserve
from tests.common import FEW_SHOTS
from tests.runs import output, start

SMALL = [
    "--config=configs/seqcls.yaml", FEW_SHOTS, "--data.train_size=96", "--data.val_size=64",
    "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu", "--monitor.every_n_steps=2",
]  # fmt: skip


def fit(root, *arguments):
    main(["fit", *SMALL, f"--trainer.default_root_dir={root}", *arguments])


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_run_continues_in_its_folder_as_if_it_had_never_stopped(tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    fit(straight, "--trainer.max_epochs=3")
    fit(resumed, "--trainer.max_epochs=1")
    fit(resumed, "--trainer.max_epochs=3", "--ckpt_path=last")
    folders = [root / "seqcls" / "version_0" for root in (straight, resumed)]
    assert next_version(resumed / "seqcls") == 1
    checkpoints = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in folders]
    for name, value in checkpoints[0]["state_dict"].items():
        assert torch.equal(value, checkpoints[1]["state_dict"][name]), name
    clock = {"train_seconds", "quantum/seconds", "cost/memory_GB"}
    first, second = ([{k: v for k, v in row.items() if k not in clock} for row in rows(folder)] for folder in folders)
    assert first == second  # metrics.csv: nothing lost, nothing twice
    assert (folders[1] / "config.yaml").is_file()
    assert "max_epochs: 3" in (folders[1] / "config_from_step_3.yaml").read_text()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    for name in ("val/accuracy final", "val/accuracy best", "epochs", "circuits", "shots"):
        assert summaries[0][name] == summaries[1][name], name
    assert summaries[1]["circuit_seconds"] > 0  # though the resumed process ran none
    events = EventAccumulator(str(folders[1])).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(9))


def test_changes_at_a_resume_are_named(tmp_path):
    fit(tmp_path, "--trainer.max_epochs=1")
    with pytest.warns(UserWarning, match=r"Resumed with changes: model.init_args.optimizer.init_args.lr 0.001 -> 0.5"):
        fit(tmp_path, "--trainer.max_epochs=2", "--ckpt_path=last", "--model.optimizer.init_args.lr=0.5")


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    process = start(tmp_path, "--trainer.max_epochs=5000")
    last = tmp_path / "seqcls" / "version_0" / "checkpoints" / "last.ckpt"
    for _ in range(600):
        if last.is_file():
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert "resume with --ckpt_path" in output(tmp_path)
    assert str(last) in output(tmp_path)


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    fit(tmp_path, "--trainer.max_epochs=1")
    folder = tmp_path / "seqcls" / "version_0"
    with open(folder / "metrics.csv", "a") as file:  # what a killed second epoch had logged
        file.write(",".join("7" for _ in rows(folder)[0]) + "\n")
    assert [row["step"] for row in rows(folder)][-1] == "7"
    fit(tmp_path, "--trainer.max_epochs=2", "--ckpt_path=last")
    losses = [int(row["step"]) for row in rows(folder) if row["train/loss"]]
    assert losses == list(range(6))


def test_a_finished_run_says_so(tmp_path, capsys):
    fit(tmp_path, "--trainer.max_epochs=1")
    with pytest.raises(SystemExit):
        fit(tmp_path, "--trainer.max_epochs=1", "--ckpt_path=last")
    assert "has finished its 1 epochs; raise --trainer.max_epochs" in capsys.readouterr().err


def test_last_and_best_are_those_of_the_newest_run_that_has_them(tmp_path):
    for version in (2, 10):
        (tmp_path / "x" / f"version_{version}" / "checkpoints").mkdir(parents=True)
        (tmp_path / "x" / f"version_{version}" / "checkpoints" / "last.ckpt").touch()
    assert reserve(tmp_path / "x").name == "version_11"  # started, without a checkpoint yet
    assert find_checkpoint("last", tmp_path, "x").parts[-3] == "version_10"
    assert find_checkpoint("auto", tmp_path, "x") == find_checkpoint("last", tmp_path, "x")
    assert find_checkpoint("auto", tmp_path, "y") is None
    with pytest.raises(IsADirectoryError, match="one file for each process; train with the strategy's save_dist"):
        find_checkpoint(str(tmp_path), tmp_path, "x")
    with pytest.raises(FileNotFoundError, match=r"No best checkpoint.*has one; train first: fit"):
        find_checkpoint("best", tmp_path, "x")
    with pytest.raises(FileNotFoundError, match=r"name another --experiment \(x\), or train first: fit"):
        find_checkpoint("last", tmp_path, "y")
    for experiment in ("x", "y"):
        with pytest.raises(FileNotFoundError, match=r"newest: .*/x/version_\d+/checkpoints/last.ckpt"):
            find_checkpoint(str(tmp_path / "no.ckpt"), tmp_path, experiment)


def test_a_missing_checkpoint_names_the_three_newest_of_its_experiment(tmp_path):
    for experiment in ("x", "y"):
        for version in range(5):
            file = tmp_path / experiment / f"version_{version}" / "checkpoints" / "last.ckpt"
            file.parent.mkdir(parents=True)
            file.touch()
            os.utime(file, (version, version))
    with pytest.raises(FileNotFoundError) as caught:
        find_checkpoint("no.ckpt", tmp_path, "x")
    names = str(caught.value).partition("newest: ")[2].split(", ")
    assert [Path(name).parts[-4:-2] for name in names] == [("x", f"version_{v}") for v in (4, 3, 2)]


def test_auto_starts_goes_on_and_has_finished(tmp_path, capsys):
    for epochs in (1, 2):
        fit(tmp_path, "--ckpt_path=auto", f"--trainer.max_epochs={epochs}")
    folder = tmp_path / "seqcls" / "version_0"
    assert [int(row["step"]) for row in rows(folder) if row["train/loss"]] == list(range(6))
    with pytest.raises(SystemExit, match="0"):
        fit(tmp_path, "--ckpt_path=auto", "--trainer.max_epochs=2")
    assert "has finished its 2 epochs" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "seqcls").iterdir()] == ["version_0"]


def test_other_processes_name_the_newest_folder_and_make_none(tmp_path, monkeypatch):
    (tmp_path / "version_4").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(rank_zero_only, "rank", 1)
        assert reserve(tmp_path).name == "version_4"
    with monkeypatch.context() as patched:
        patched.setenv("NODE_RANK", "1")  # Lightning's own start on several machines sets nothing else
        assert reserve(tmp_path).name == "version_4"
        patched.setenv("NODE_RANK", "0")
        assert reserve(tmp_path).name == "version_5"
