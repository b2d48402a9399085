"""Metrics that are waited for and that nobody logs: known early, said after the epoch is saved."""

import json

import pytest
import torch

from lightning_qsgd.cli import main
from lightning_qsgd.experiment import Experiment
from tests.common import fails
from tests.own import RUN

OWN = ["--model=tests.own.Regression", *RUN]


def checkpoint(root, name="last"):
    return torch.load(root / "own/version_0/checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint.monitor=val/mes"], "Invalid checkpoint.monitor: 'val/mes' is not logged"),
        (["--time_to_target.metric=val/mes"], "Invalid time_to_target.metric: 'val/mes' is not logged"),
        (["--model.patience=1"], "Invalid scheduler.monitor: 'val/mes' is not logged"),
        (
            ["--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: val/mes}}]"],
            "Invalid EarlyStopping.monitor: 'val/mes' is not logged",
        ),
    ],
)
def test_what_was_asked_for_ends_the_run_after_its_epoch_is_saved(tmp_path, capsys, recwarn, arguments, words):
    said = fails(capsys, "fit", *OWN, f"--trainer.default_root_dir={tmp_path}", *arguments)
    assert f"{words}; logged are: train/mse, val/mse. Set " in said
    assert "saved: add --ckpt_path last to continue it" in said
    assert any(f"{words}; logged are: val/mse. Unless" in str(warning.message) for warning in recwarn)  # sanity check
    assert (checkpoint(tmp_path)["epoch"], checkpoint(tmp_path)["global_step"]) == (1, 3)
    right = ["--model.patience=null", "--checkpoint.monitor=val/mse", "--checkpoint.mode=min", "--ckpt_path=last"]
    main(["fit", *OWN, f"--trainer.default_root_dir={tmp_path}", *right])
    assert checkpoint(tmp_path)["global_step"] == 6


def test_also_when_it_is_the_only_epoch(tmp_path, capsys):
    arguments = [f"--trainer.default_root_dir={tmp_path}", "--checkpoint.monitor=val/mes", "--trainer.max_epochs=1"]
    assert "Invalid checkpoint.monitor: 'val/mes'" in fails(capsys, "fit", *OWN, *arguments)
    assert checkpoint(tmp_path)["global_step"] == 3


def test_defaults_that_do_not_fit_end_nothing(tmp_path):
    with pytest.warns(
        UserWarning, match=r"'val/accuracy' is not logged.*there will be no best.ckpt. Set --checkpoint.m"
    ):
        main(["fit", *OWN, f"--trainer.default_root_dir={tmp_path}"])
    assert checkpoint(tmp_path)["global_step"] == 6
    assert not (tmp_path / "own/version_0/checkpoints/best.ckpt").exists()
    assert "val/accuracy final" not in json.loads((tmp_path / "own/version_0/summary.json").read_text())


def test_the_clock_watches_what_the_checkpoint_does(tmp_path):
    monitor = ["--checkpoint.monitor=val/mse", "--checkpoint.mode=min"]
    main(["fit", *OWN, *monitor, f"--trainer.default_root_dir={tmp_path}"])
    summary = json.loads((tmp_path / "own/version_0/summary.json").read_text())
    score = checkpoint(tmp_path)["callbacks"]["ModelCheckpoint.best"]["best_model_score"]
    assert summary["val/mse best"] == pytest.approx(float(score), abs=1e-4)
    assert not any(name.startswith("epochs to") for name in summary)
    main(["fit", *OWN, *monitor, "--time_to_target.target=100", f"--trainer.default_root_dir={tmp_path}"])
    assert json.loads((tmp_path / "own/version_1/summary.json").read_text())["epochs to 100.00"] == 1


def test_the_monitor_follows_what_the_data_are_for(tmp_path):
    table = ["--config=configs/table.yaml", "--data.dataset=diabetes", "--trainer.enable_progress_bar=false"]
    table += ["--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]
    main(["fit", *table])
    folder = tmp_path / "table" / "version_0"
    saved = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]["ModelCheckpoint.best"]
    assert (saved["monitor"], saved["mode"]) == ("val/mse", "min")
    assert json.loads((folder / "summary.json").read_text())["val/mse best"] > 0
    settings = Experiment.typed(table).settings  # of a comparison
    assert settings["checkpoint"]["monitor"] == "val/mse"
    assert Experiment.typed([*table, "--checkpoint.monitor=val/r2"]).settings["checkpoint"]["mode"] == "max"


@pytest.mark.parametrize("option", ["checkpoint.monitor", "time_to_target.metric"])
def test_the_best_is_not_the_worst(option):
    def mode(*arguments):
        return Experiment.typed(["--config=configs/table.yaml", *arguments]).settings[option.partition(".")[0]]["mode"]

    named = f"--{option.partition('.')[0]}.mode"
    assert mode(f"--{option}=val/loss") == "min"
    assert mode(f"--{option}=val/f1") == "max"
    assert mode(f"--{option}=val/energy", f"{named}=min") == "min"
    with pytest.raises(ValueError, match=r"'max'; lower val/loss is better: set .*mode to min"):
        mode(f"--{option}=val/loss", f"{named}=max")


def test_a_metric_of_training_is_saved_at_the_end_of_the_epoch(tmp_path):
    arguments = ["--model.late=true", "--checkpoint.monitor=late/epoch", "--checkpoint.mode=max"]
    main(["fit", *OWN, *arguments, f"--trainer.default_root_dir={tmp_path}"])
    assert float(checkpoint(tmp_path, "best")["callbacks"]["ModelCheckpoint.best"]["best_model_score"]) == 1.0


def test_without_validation_nobody_waits_for_its_metrics(tmp_path, capsys):
    arguments = [f"--trainer.default_root_dir={tmp_path}", "--trainer.limit_val_batches=0"]
    main(["fit", *OWN, *arguments, "--checkpoint.monitor=val/mse", "--time_to_target.metric=val/mse"])
    assert checkpoint(tmp_path)["global_step"] == 6
    assert "Invalid scheduler.monitor: 'val/mes' is not logged" in fails(
        capsys, "fit", *OWN, *arguments, "--model.patience=1"
    )


def test_a_plateau_that_waits_for_a_later_validation_goes_on(tmp_path):
    arguments = ["--model=tests.own.Regression", *RUN[:1], *RUN[2:], f"--trainer.default_root_dir={tmp_path}"]
    arguments += ["--checkpoint.monitor=val/mse", "--checkpoint.mode=min", "--model.plateau=val/mse"]
    main(["fit", *arguments, "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2", "--model.patience=5"])
    assert checkpoint(tmp_path)["global_step"] == 12
